"""How many records a net's data has, if that can be known."""

from __future__ import annotations

from caffe_batch.errors import InputError
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources, is_readable


def count_records(file: NetFile, sources: Sources) -> int | None:
    """Records of the first data layer whose source can be read; None if there is none."""
    for _, layer, rule in file.known():
        if is_readable(rule):
            try:
                return sources.contents(layer, rule).records
            except InputError:
                return None  # the shapes came from --input-shape, the data is elsewhere
    return None
