"""A copy of a job in another directory, with a random seed of its own."""

from __future__ import annotations

from pathlib import Path

from caffe_batch import prototxt
from caffe_batch.errors import InputError
from caffe_batch.jobs.job_files import JobFiles, check_free, write_files
from caffe_batch.jobs.json_files import PLAN_A_JOB
from caffe_batch.jobs.plan_file import PlanFile, moved_path
from caffe_batch.planning.edits.changes import Change
from caffe_batch.schema import caffe_pb2

#: The fields of a job's solver that name its own files.
_OWN_PATHS = ("net", "train_net", "test_net", "snapshot_prefix")


def copy_job(source: Path, target: Path, seed: int) -> JobFiles:
    """Copies the job of one directory into another one, for another training.

    Results of a training aren't copied. The solvers get the seed and name the files of the
    new directory; plan.json lists the seed as a change.

    Args:
        source: A directory that ``plan`` has written.
        target: Created if it isn't there.
        seed: random_seed, which decides the first weights, dropout, cut-outs and mirrored images.

    Raises:
        InputError: The source holds no job that can be read, or the target one already.
        OSError: A file can't be read or written.
    """
    old, new = JobFiles(source.resolve()), JobFiles(target.resolve())
    if not old.plan.is_file():
        raise InputError(
            f"{source}: there is no plan.json, so this is not a job directory",
            hint=["Write one with ", PLAN_A_JOB, "."],
        )
    check_free(new, target, ())
    texts = {}
    for path in sorted(old.directory.glob("*.prototxt")):
        text = prototxt.read_text(path)
        if path.name.startswith("solver"):
            text = _moved_solver(text, old, new, seed)
        texts[new.directory / path.name] = text
    before = prototxt.read_solver(old.solver)
    drawn = before.random_seed if before.HasField("random_seed") else None
    reason = "one of several trainings that differ by chance alone"
    change = Change("solver", ("random_seed",), drawn, seed, reason)
    plan = PlanFile.read(old.plan).moved(new.directory, new.json()).with_change(change)
    texts[new.plan] = plan.text
    return write_files(new, texts)


def _moved_solver(text: str, old: JobFiles, new: JobFiles, seed: int) -> str:
    document = prototxt.Document(text, caffe_pb2.SolverParameter)
    for field in _OWN_PATHS:
        for number in range(document.count((field,))):
            path = (field, number) if field == "test_net" else (field,)
            document.set(path, moved_path(document.get(path), old.directory, new.directory))
    document.set(("random_seed",), seed)
    return document.text
