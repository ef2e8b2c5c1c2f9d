"""What a layer is, for the registry of rules: its type, and of a Python layer also the class."""

from __future__ import annotations

from caffe_batch.layers.forks import ALIKE
from caffe_batch.layers.own import PYTHON, PYTHON_TYPE
from caffe_batch.schema import caffe_pb2

#: Types that two forks fill with different messages: those that make another kind of them.
WRITTEN_WITH: dict[str, tuple[str, ...]] = {
    rule.type.partition(":")[0]: (rule.type.partition(":")[2],)
    for rule in ALIKE
    if ":" in rule.type and not rule.type.startswith(PYTHON)
}


def is_python(layer: caffe_pb2.LayerParameter) -> bool:
    """Whether a layer runs code of the user's in Python."""
    return layer.type == PYTHON_TYPE


def kind(layer: caffe_pb2.LayerParameter) -> str:
    """The type of a layer; ``Python:module.Class`` for a Python layer."""
    for message in WRITTEN_WITH.get(layer.type, ()):
        if layer.HasField(message):  # type: ignore[arg-type]  # the stubs list every literal name
            return f"{layer.type}:{message}"
    if not is_python(layer):
        return layer.type
    return f"{PYTHON}{layer.python_param.module}.{layer.python_param.layer}"
