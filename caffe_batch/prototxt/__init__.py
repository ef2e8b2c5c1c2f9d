"""Prototxt files: read, upgraded, edited in place, written. Knows nothing of nets."""

from caffe_batch.prototxt.messages import PrototxtWarning, write
from caffe_batch.prototxt.reader import parse_net, parse_solver, read, read_net, read_solver
from caffe_batch.prototxt.upgrade import Origin, UpgradedNet, upgrade_net, upgrade_solver

__all__ = [
    "Origin",
    "PrototxtWarning",
    "UpgradedNet",
    "parse_net",
    "parse_solver",
    "read",
    "read_net",
    "read_solver",
    "upgrade_net",
    "upgrade_solver",
    "write",
]
