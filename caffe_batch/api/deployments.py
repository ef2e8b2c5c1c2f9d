"""``deploy``: makes a net for inference from a trained job."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from caffe_batch import engines
from caffe_batch.api.jobs import Job
from caffe_batch.api.machines import RuntimeName, find_trainer
from caffe_batch.deploying.folder import DESCRIPTION, LABELS, NET, Deployment, Input
from caffe_batch.deploying.folding import fold
from caffe_batch.deploying.preprocessing import Origin, origin_of
from caffe_batch.deploying.transformation import Deployed, deployed
from caffe_batch.device import Device
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.experiments.deployment import FOLDED_TOLERANCE, TOLERANCE, compare_scores
from caffe_batch.experiments.inference import Inference
from caffe_batch.files import read_regular, write_bytes, write_text
from caffe_batch.jobs.best import Metric
from caffe_batch.training.trained import Chosen, Trained, choose_weights, read_trained


def deploy(
    job: str | Path,
    out: str | Path,
    *,
    snapshot: str | Path | None = None,
    best: bool | str = False,
    fold_batch_norm: bool = False,
    labels: str | Path | None = None,
    check: bool = True,
    engine: str | None = None,
    runtime: RuntimeName = None,
    threads: int = 1,
) -> Deployment:
    """Make a net for inference from a trained job: prototxt, weights, mean, labels, preprocessing.

    Data layers become inputs; losses, scores and what only they need are left out, and a Softmax
    or Sigmoid takes the place of a loss that contains one. A batch of the test data is run
    through both nets, and their scores must agree within 1e-6 (1e-4 with folded weights).

    Args:
        job: The job directory.
        out: The folder to make; its ``deploy.json`` describes it.
        snapshot: A .caffemodel, or a .solverstate with its weights beside it; None for the job's
            newest snapshot.
        best: Take the snapshot with the best test; a string names the output that decides.
        fold_batch_norm: Merge BatchNorm, Scale and Bias layers into the weights of the layer
            before them.
        labels: A file with the names of the classes, one per line; None for those of the data set.
        check: Compare the scores.
        engine: What runs the nets: ``"caffe"`` or ``"pytorch"``; None for the engine that trained.
        runtime: The Python to run it on, as :meth:`Job.train` takes it.
        threads: CPU threads for the matrix products.

    Raises:
        InputError: The job has no snapshot or no TEST net, ``out`` exists, or a file doesn't fit.
        RuntimeMissingError: There is no Python with the engine.
        TrainingError: The scores differ, or couldn't be compared.
    """
    found = Job(job)
    target = Path(out)
    _check_out(target)
    trained = read_trained(found.directory)
    usual = engines.find(engine or found.last_engine)
    chosen = choose_weights(
        found.directory,
        usual,
        snapshot=None if snapshot is None else Path(snapshot),
        best=Metric.parse(best) if isinstance(best, str) else best,
    )
    made = deployed(trained.test, trained.sources, allow_unknown=trained.plan.allow_unknown)
    usual.check_weights(chosen.weights, [trained.test.build(trained.test.layers(trained.sources))])
    origins = {
        name: origin_of(trained.test, made.data_layers[name], shape, trained.sources)
        for name, shape in made.inputs.items()
    }
    names = _labels(labels, origins)
    _check_labels(names, made)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        deployment = _write(work, trained, chosen, made, origins, names, fold_=fold_batch_norm)
        if check:
            trainer = find_trainer(runtime, engine, found.last_engine)
            how = Inference(engines.find(trainer.engine), trainer.runtime, Device.CPU, threads)
            deployment = _checked(deployment, trained, chosen, made, how)
            deployment = replace(deployment, notes=(*deployment.notes, *trainer.notes))
        write_text(work / DESCRIPTION, deployment.to_text())
        work.chmod(0o777 & ~_umask())
        if target.is_dir():
            target.rmdir()
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return replace(
        deployment,
        folder=target,
        net=target / deployment.net.name,
        weights=target / deployment.weights.name,
    )


def _check_out(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already", hint="Name a folder that doesn't exist yet.")


def _write(
    folder: Path,
    trained: Trained,
    chosen: Chosen,
    made: Deployed,
    origins: dict[str, Origin],
    labels: tuple[str, ...],
    *,
    fold_: bool,
) -> Deployment:
    """Write all files but the description."""
    suffix = ".caffemodel.h5" if chosen.weights.name.endswith(".h5") else ".caffemodel"
    weights, message = folder / f"weights{suffix}", made.message
    gone: tuple[str, ...] = ()
    if fold_:
        folded = fold(made.message, chosen.weights, trained.test.rules)
        message, gone = folded.message, folded.layers
        write_bytes(weights, folded.weights.SerializeToString())
    else:
        shutil.copyfile(chosen.weights, weights)
    comment = f"The net for inference of {trained.test.message.name or trained.job.path.name!r}."
    write_text(folder / NET, replace(made, message=message).text(comment))
    means = {each.mean for each in origins.values() if each.mean}
    if len({mean.name for mean in means}) < len(means):
        raise InputError(f"several mean files have the same name: {', '.join(map(str, means))}")
    for mean in means:
        shutil.copyfile(mean, folder / mean.name)
    if labels:
        write_text(folder / LABELS, "".join(f"{name}\n" for name in labels))
    notes = [*chosen.notes, *made.notes]
    notes += [note for each in origins.values() for note in each.notes]
    notes += [
        f"how a picture becomes {name!r} isn't known: {each.why_not}"
        for name, each in origins.items()
        if each.preprocessing is None
    ]
    if fold_ and not gone:
        notes.append("there was nothing to fold")
    return Deployment(
        folder=folder,
        net=folder / NET,
        weights=weights,
        labels=labels,
        inputs=tuple(
            Input(name, shape, origins[name].preprocessing, origins[name].why_not)
            for name, shape in made.inputs.items()
        ),
        outputs=made.outputs,
        folded=gone,
        origin={
            "job": str(trained.job.path),
            "snapshot": chosen.weights.name,
            "update": chosen.update,
            "best": None
            if chosen.score is None
            else {"output": chosen.score.output, "value": chosen.score.value},
        },
        notes=tuple(dict.fromkeys(notes)),
    )


def _checked(
    deployment: Deployment, trained: Trained, chosen: Chosen, made: Deployed, how: Inference
) -> Deployment:
    """The description, with how well the scores agree.

    Raises:
        TrainingError: They don't.
    """
    from caffe_batch.prototxt import read_net

    net = read_net(deployment.net, allow_unknown_fields=True)
    compared = compare_scores(trained, chosen.weights, made, net, deployment.weights, how)
    tolerance = FOLDED_TOLERANCE if deployment.folded else TOLERANCE
    worst = max(compared, key=lambda each: each.difference)
    if not worst.difference <= tolerance:
        raise TrainingError(
            f"output {worst.name!r} of the net for inference differs from the TEST net's by "
            f"{worst.difference:.2g}, and {tolerance:g} is allowed; nothing was written",
            hint="The TEST net may draw random numbers, or keep a state from pass to pass.",
        )
    return replace(
        deployment,
        check={
            "engine": how.engine.name,
            "tolerance": tolerance,
            "outputs": {
                each.name: {"samples": each.samples, "largest_difference": each.difference}
                for each in compared
            },
        },
    )


def _labels(labels: str | Path | None, origins: dict[str, Origin]) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        InputError: The file can't be read.
    """
    beside = [each.labels for each in origins.values() if each.labels]
    path = Path(labels) if labels is not None else next(iter(beside), None)
    if path is None:
        return ()
    return read_labels(path)


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in a file, one per line, without the ids that ImageNet's lists have in front.

    Raises:
        InputError: It can't be read.
    """
    try:
        text = read_regular(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    return tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))


def _check_labels(labels: tuple[str, ...], made: Deployed) -> None:
    for output in made.outputs:
        if labels and output.classes and len(labels) != output.shape[1]:
            raise InputError(
                f"there are {len(labels)} labels, and output {output.name!r} has "
                f"{output.shape[1]} classes",
                hint="Give a file with the names of the net's classes, one per line.",
            )


def _umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
