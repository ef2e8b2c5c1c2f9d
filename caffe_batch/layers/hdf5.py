"""HDF5Data and HDF5Output. Source: hdf5_data_layer.cpp, .cu; hdf5_output_layer.cpp, .cu.

``Site.records`` of HDF5Data holds the shape of one row of each top's dataset, without axis 0.

Caffe keeps the whole current file in host memory, every dataset that is a top, as floats; it takes
the most while the largest file of the list is the current one (``Site.file_rows``).
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import InputShapeError, Option, ShapeError
from caffe_batch.layers.base import (
    MAX_COUNT,
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    four_axes,
    setting,
)
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class HDF5DataSettings:
    batch_size: int = 0
    shuffle: bool = False
    transform_param: bool | None = setting(None, message="")


class HDF5Data(Rule):
    type = "HDF5Data"
    message = "hdf5_data_param"
    settings = HDF5DataSettings
    bottoms = (0, 0)
    tops = (1, None)
    has_batch_size = True
    source = Source(SourceKind.HDF5_LIST, record="row", decides_all_tops=True, shared_out=True)
    record_order = "An update reads the same rows in the same order, shuffled or not."

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: HDF5DataSettings = site.settings
        if s.transform_param:
            raise ShapeError(
                "HDF5Data doesn't transform data",
                hint="Remove transform_param and store the data as the net needs it.",
            )
        if s.batch_size == 0:
            raise ShapeError("hdf5_data_param needs batch_size, at least 1")
        if not site.records or len(site.records) != site.tops:
            raise InputShapeError(
                "the size of its datasets is not known",
                hint=["Give one ", Option("input_shape", "TOP=DIMxDIM..."), " for each top."],
            )
        if (site.file_rows or 0) * max(map(count, site.records)) > MAX_COUNT:
            raise ShapeError(
                f"a dataset of the largest file has more than {MAX_COUNT} elements, Caffe's limit",
                hint="Spread its rows over more files: they are read one after the other.",
            )
        return tuple((s.batch_size, *record) for record in site.records)

    def memory(self, site: Site, mode: Mode) -> Memory:
        forward = tuple(top(i).data for i in range(site.tops))
        if mode == "gpu":
            return Memory(forward=forward)
        if site.file_rows is None:
            return Memory(forward=forward, partial=True)
        file = tuple(
            Buffer(f"hdf_blobs_{i}", site.file_rows * count(record))
            for i, record in enumerate(site.records or ())
        )
        return Memory(buffers=file, build=tuple(blob.data for blob in file), forward=forward)

    def coupling(self, site: Site) -> Coupling:
        s: HDF5DataSettings = site.settings
        return Coupling(shuffles=s.shuffle)


class HDF5Output(Rule):
    """Writes its two bottoms to a file, through a copy on the host.

    A second Forward aborts: the file already has the datasets.
    """

    type = "HDF5Output"
    message = "hdf5_output_param"
    bottoms = (2, 2)
    tops = (0, 0)
    writes_files = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        data, label = map(four_axes, site.bottoms)
        if data[0] != label[0]:
            raise ShapeError(
                f"both inputs must have the same batch size: {data[0]} is not {label[0]}"
            )
        return ()

    def memory(self, site: Site, mode: Mode) -> Memory:
        copies = tuple(
            Buffer(name, count(shape))
            for name, shape in zip(("data_blob_", "label_blob_"), site.bottoms, strict=True)
        )
        forward = (bottom(0).data, bottom(1).data)
        if mode == "gpu":
            return Memory(forward=forward)
        return Memory(buffers=copies, forward=(*forward, *(copy.data for copy in copies)))
