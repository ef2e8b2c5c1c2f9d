"""How many records a net's data has, where that can be known."""

from __future__ import annotations

from caffe_batch.errors import InputError
from caffe_batch.net.batch import batch_sites
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources, has_records


def count_records(file: NetFile, sources: Sources) -> int | None:
    """Records of the first data layer with samples whose source can be read; None if none can.

    A layer that reads a constant (the matrix of an InfogainLoss) holds no samples.
    """
    readable = {layer.name: (layer, rule) for _, layer, rule in file.known() if has_records(rule)}
    for name in _sample_layers(file, sources):
        if name in readable:
            try:
                found = sources.contents(*readable[name])
            except InputError:
                return None  # the shapes came from --input-shape, the data is elsewhere
            return None if found.estimated else found.records
    return None


def _sample_layers(file: NetFile, sources: Sources) -> list[str]:
    """The layers that hold the batch; all that read a source where their sizes aren't known."""
    try:
        layers = file.layers(sources, allow_unknown=True)
    except InputError:
        return [layer.name for _, layer, _ in file.known()]
    return [layers[site.layer].name for site in batch_sites(layers)]
