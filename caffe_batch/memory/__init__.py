"""Predicts memory before anything runs: the sum of every side of every blob that Caffe touches."""

from caffe_batch.memory.base import MemoryModel, Prediction
from caffe_batch.memory.build import Build
from caffe_batch.memory.ledger import LayerBytes, Part
from caffe_batch.memory.model import predict_nets
from caffe_batch.memory.predict import CaffeMemory, predict, solver_settings
from caffe_batch.memory.solver_state import SolverSettings

__all__ = [
    "Build",
    "CaffeMemory",
    "LayerBytes",
    "MemoryModel",
    "Part",
    "Prediction",
    "SolverSettings",
    "predict",
    "predict_nets",
    "solver_settings",
]
