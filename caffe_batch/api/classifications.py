"""``classify``: what a trained net sees in pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from caffe_batch import engines
from caffe_batch.api.arguments import Files, files
from caffe_batch.api.deployments import deploy
from caffe_batch.api.jobs import Job
from caffe_batch.api.machines import RuntimeName, device_of, find_trainer
from caffe_batch.datasets.pictures import require_reader
from caffe_batch.datasets.sources import pictures_in
from caffe_batch.deploying.folder import is_deployment, read_deployment
from caffe_batch.errors import InputError, Option
from caffe_batch.experiments.classification import (
    Classified,
    Classifier,
    Picture,
)
from caffe_batch.experiments.inference import Inference
from caffe_batch.layers.loading import rules_with
from caffe_batch.net.data.extras import extra


def classify(
    target: str | Path,
    images: str | Path | Iterable[str | Path | Picture],
    *,
    top: int = 5,
    blob: str | Sequence[str] = (),
    out: str | Path | None = None,
    masks: str | Path | None = None,
    batch_size: int = 32,
    rules: Files = (),
    snapshot: str | Path | None = None,
    best: bool = False,
    engine: str | None = None,
    runtime: RuntimeName = None,
    cpu: bool = False,
    gpu: int | None = None,
    threads: int = 1,
) -> Classified:
    """What a trained net sees in pictures; or, with ``blob``, their features.

    Args:
        target: A job, or a folder that :func:`deploy` made.
        images: Files and folders of pictures. One that can't be read has a ``problem``.
        top: How many classes to return for each picture.
        blob: Blobs whose values to return instead of the classes.
        out: The HDF5 file for these values, with one row per picture, and the pictures' names.
        masks: A folder for the masks of a net that assigns a class to each place of a picture.
        batch_size: Pictures per forward pass.
        rules: Python files with rules for other layer types; a job's own are known.
        snapshot: The snapshot of a job, as :func:`deploy` takes it.
        best: The same.
        engine: What computes: ``"caffe"`` or ``"pytorch"``; None for what trained the job, or for
            Caffe.
        runtime: The Python to run it on, as :meth:`Job.train` takes it.
        cpu: Run on the CPU even if there is a GPU.
        gpu: Run on this GPU.
        threads: CPU threads for the matrix products.

    Raises:
        InputError: There is no net, no picture or no such blob, or the net doesn't take pictures.
        RuntimeMissingError: There is no Python with the engine.
        TrainingError: The worker ended early.
    """
    require_reader()
    device = device_of(cpu=cpu, gpu=gpu)
    blobs = (blob,) if isinstance(blob, str) else tuple(blob)
    if bool(blobs) != (out is not None):
        raise InputError(
            [Option("blob", "NAME"), " and ", Option("out", "FILE.h5"), " go together"]
        )
    if out is not None:
        extra("h5py", "hdf5", "HDF5 files")
    pictures = _pictures([images] if isinstance(images, (str, Path)) else images)
    folder = Path(target)
    with TemporaryDirectory(prefix="caffe-batch-") as place:
        if is_deployment(folder):
            if snapshot is not None or best:
                raise InputError(
                    f"{folder} has its weights already",
                    hint="Only a job has snapshots to choose from.",
                )
            deployment, usual, own = read_deployment(folder), engines.DEFAULT, files(rules)
        else:
            job = Job(folder)
            if not job.is_planned:
                raise InputError(
                    f"{folder} is neither a job nor a folder that `caffe-batch deploy` made",
                    hint="Give the directory of a training.",
                )
            deployment = deploy(
                folder, Path(place) / "net", snapshot=snapshot, best=best, check=False
            )
            usual, own = job.last_engine, (*map(Path, job.plan.rules), *files(rules))
        trainer = find_trainer(runtime, engine, usual)
        how = Inference(engines.find(trainer.engine), trainer.runtime, device, threads)
        classifier = Classifier(
            deployment,
            how,
            rules_with(own),
            own,
            batch_size=batch_size,
            blobs=blobs,
        )
        if masks is not None and not any(each.is_map for each in deployment.outputs):
            raise InputError(
                [
                    Option("masks", str(masks)),
                    ": the net classifies a whole picture, not its places",
                ],
            )
        answers = tuple(classifier.answers(pictures))
    written: dict[str, Path] = {}
    if masks is not None:
        from caffe_batch.reporting.masks import write_masks

        written = write_masks(answers, Path(masks))
    if out is not None:
        from caffe_batch.reporting.features import write_features

        write_features(answers, Path(out))
    notes = (*trainer.notes, *deployment.notes, *classifier.notes)
    asked = replace(deployment, folder=folder)
    return Classified(asked, answers, top, written, tuple(dict.fromkeys(notes)))


def _pictures(images: Iterable[str | Path | Picture]) -> list[Picture]:
    """The pictures in some files and folders.

    Raises:
        InputError: There is none.
    """
    found: list[Picture] = []
    for each in images:
        if isinstance(each, Picture):
            found.append(each)
        elif os.path.isdir(each):
            inside = pictures_in(Path(each))
            if not inside:
                raise InputError(f"{each}: there is no picture in this folder")
            found += [Picture(str(path)) for path in inside]
        else:
            found.append(Picture(str(each)))
    if not found:
        raise InputError("there is no picture to classify")
    return found
