"""Data layers: each starts a net, and is the only source of records in it."""

from __future__ import annotations

from collections.abc import Callable

from tools.audit_search.grower import Grower, N
from tools.audit_search.sources import SHAPE


def _data(g: Grower) -> str:
    mirror = "mirror: true crop_size: 3" if g.often(0.3) else ""
    settings = (
        f'data_param {{ source: "{g.folder}/lmdb" backend: LMDB batch_size: {N} }} '
        f"transform_param {{ scale: 0.005 {mirror} }}"
    )
    shape = (SHAPE[0], 3, 3) if mirror else SHAPE
    g.source("Data", settings, ("data", "label"), shape)
    return "label"


def _hdf5(g: Grower) -> str:
    shuffle = g.draw.choice(("true", "false"))
    settings = (
        f'hdf5_data_param {{ source: "{g.folder}/rows.txt" batch_size: {N} shuffle: {shuffle} }}'
    )
    g.source("HDF5Data", settings, ("hdata", "hlabel"), SHAPE)
    return "hlabel"


def _images(g: Grower) -> str:
    shuffle = g.draw.choice(("true", "false"))
    settings = (
        f'image_data_param {{ source: "{g.folder}/images.txt" batch_size: {N} shuffle: {shuffle} }}'
        " transform_param { scale: 0.005 mirror: true }"
    )
    g.source("ImageData", settings, ("data", "label"), SHAPE)
    return "label"


def _windows(g: Grower) -> str:
    settings = (
        f'window_data_param {{ source: "{g.folder}/windows.txt" batch_size: {N} '
        "fg_fraction: 0.5 } transform_param { crop_size: 3 scale: 0.005 }"
    )
    g.source("WindowData", settings, ("data", "label"), (3, 3, 3))
    return "label"


def _memory(g: Grower) -> str:
    channels, height, width = SHAPE
    settings = (
        f"memory_data_param {{ batch_size: {N} channels: {channels} height: {height} "
        f"width: {width} }}"
    )
    g.source("MemoryData", settings, ("data", "label"), SHAPE)
    return "label"


#: Each adds the source and returns the name of its labels.
SOURCES: dict[str, Callable[[Grower], str]] = {
    "Data": _data,
    "HDF5Data": _hdf5,
    "ImageData": _images,
    "MemoryData": _memory,
    "WindowData": _windows,
}
