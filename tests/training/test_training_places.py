"""The folders that a worker must see: beside the job, wherever its net's data lies."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.training.places import job_places
from caffe_batch.training.start import StartingPoint
from tests.planned_jobs import write_job

LAYER = 'layer {{ name: "{0}" type: "{0}" top: "{0}" {1} }}\n'


def test_every_kind_of_source_is_found(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    for folder in ("train_lmdb", "lists", "hdf5/a", "hdf5/b", "images/cats", "mean"):
        (root / folder).mkdir(parents=True)
    (root / "lists/hdf5.txt").write_text(f"{root}/hdf5/a/1.h5\n{root}/hdf5/b/2.h5\n")
    (root / "lists/images.txt").write_text("cats/1.png 0\n")
    (tmp_path / "windows.txt").write_text("# 0\n")
    net = "".join(
        LAYER.format(kind, settings)
        for kind, settings in (
            (
                "Data",
                f'data_param {{ source: "{root}/train_lmdb" }}'
                f' transform_param {{ mean_file: "{root}/mean/mean.binaryproto" }}',
            ),
            ("HDF5Data", f'hdf5_data_param {{ source: "{root}/lists/hdf5.txt" }}'),
            (
                "ImageData",
                f'image_data_param {{ source: "{root}/lists/images.txt"'
                f' root_folder: "{root}/images/" }}',
            ),
            ("WindowData", 'window_data_param { source: "windows.txt" }'),
        )
    )
    job = write_job(tmp_path, net=net)
    start = StartingPoint(weights=(f"{tmp_path}/zoo/net.caffemodel",))
    places = job_places(job, job.read_plan(), tmp_path, start)
    assert (places.folder, places.directory, places.fifo) == (job.path, tmp_path, job.worker_events)
    names = ("train_lmdb", "mean", "lists", "hdf5", "images")
    assert set(places.folders) == {*(root / name for name in names), tmp_path, tmp_path / "zoo"}
