"""Loads trained weights into a net, for the scripts that run inside the runtime.

Runs on the runtime's Python, 3.6 and newer, with pycaffe's numpy.
"""

from typing import Any, Iterable, List, Sequence, Set


def load_weights(net: Any, files: Sequence[str]) -> List[str]:
    """Load weights as Caffe does, by layer name.

    Caffe skips layers that the net or the file doesn't have, and says so only in its log.

    Returns:
        Names of the layers with parameters that no file has.

    Raises:
        LookupError: A file has none of the net's layers.
    """
    params = [(name, blob) for name, layer in zip(net._layer_names, net.layers)
              for blob in layer.blobs]  # fmt: skip
    loaded: Set[str] = set()
    for path in files:
        before = [blob.data.copy() for _, blob in params]
        for _, blob in params:
            blob.data[...] = float("nan")  # what the file doesn't overwrite
        net.copy_from(path)
        missing = [bool((blob.data != blob.data).all()) for _, blob in params]
        if all(missing):
            raise LookupError(f"no layer of the net has weights in {path}")
        for (name, blob), values, absent in zip(params, before, missing):
            if absent:
                blob.data[...] = values
            else:
                loaded.add(name)
    return list(dict.fromkeys(name for name, _ in params if name not in loaded))


def without_weights(layers: Iterable[str]) -> str:
    """The sentence about layers that no file has."""
    return f"No weights file has layer {', '.join(layers)}: its fillers' values stay."
