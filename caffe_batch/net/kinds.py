"""What a layer is, for the registry of rules: its type, and of a Python layer also the class."""

from __future__ import annotations

from caffe_batch.layers.own import PYTHON
from caffe_batch.schema import caffe_pb2


def kind(layer: caffe_pb2.LayerParameter) -> str:
    """The type of a layer; ``Python:module.Class`` for a Python layer."""
    if layer.type != "Python":
        return layer.type
    return f"{PYTHON}{layer.python_param.module}.{layer.python_param.layer}"
