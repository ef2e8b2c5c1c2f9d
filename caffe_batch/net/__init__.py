"""From prototxt messages to a net: layers, blobs, shapes, parameters, gradients."""

from caffe_batch.net.batch import batch_size, with_batch_size
from caffe_batch.net.graph import Blob, Net, Node, Parameter, build
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources

__all__ = [
    "Blob",
    "Net",
    "NetFile",
    "Node",
    "Parameter",
    "Recipe",
    "Sources",
    "batch_size",
    "build",
    "read_recipe",
    "with_batch_size",
]
