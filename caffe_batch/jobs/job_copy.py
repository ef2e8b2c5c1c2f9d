"""A job again in another directory, with a random seed of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caffe_batch import prototxt
from caffe_batch.errors import InputError
from caffe_batch.jobs.job_files import JobFiles, check_free, write_files
from caffe_batch.schema import caffe_pb2

#: The fields of a job's solver that name its own files.
_OWN_PATHS = ("net", "train_net", "test_net", "snapshot_prefix")


def copy_job(source: Path, target: Path, seed: int) -> JobFiles:
    """Writes the job of one directory into another one, for another training.

    Nothing that a training has left is copied. The solvers get the seed and name the files of the
    new directory; plan.json lists the seed as a change.

    Args:
        source: A directory that ``plan`` has written.
        target: Created if it isn't there.
        seed: random_seed, which decides the first weights, dropout, cut-outs and mirrored images.

    Raises:
        InputError: The source holds no job, or the target one already.
        OSError: A file can't be read or written.
    """
    old, new = JobFiles(source.resolve()), JobFiles(target.resolve())
    if not old.plan.is_file():
        raise InputError(
            f"{source}: there is no plan.json, so this is no job directory",
            hint="Write one with `caffe-batch plan NET ... --out DIR`.",
        )
    check_free(new, target, ())
    texts = {}
    for path in sorted(old.directory.glob("*.prototxt")):
        text = prototxt.read_text(path)
        if path.name.startswith("solver"):
            text = _moved_solver(text, old, new, seed)
        texts[new.directory / path.name] = text
    before = prototxt.read_solver(old.solver)
    change = {
        "file": "solver.prototxt",
        "field": "random_seed",
        "from": before.random_seed if before.HasField("random_seed") else None,
        "to": seed,
        "reason": "one of several trainings that differ by chance alone",
    }
    plan = _moved_plan(json.loads(old.plan.read_text(encoding="utf-8")), old, new, change)
    texts[new.plan] = json.dumps(plan, indent=2) + "\n"
    write_files(new, texts)
    return new


def _moved_solver(text: str, old: JobFiles, new: JobFiles, seed: int) -> str:
    document = prototxt.Document(text, caffe_pb2.SolverParameter)
    for field in _OWN_PATHS:
        for number in range(document.count((field,))):
            path = (field, number) if field == "test_net" else (field,)
            document.set(path, _moved(document.get(path), old, new))
    document.set(("random_seed",), seed)
    return document.text


def _moved_plan(
    plan: dict[str, Any], old: JobFiles, new: JobFiles, change: dict[str, Any]
) -> dict[str, Any]:
    def moved(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [{**each, "to": _moved(each["to"], old, new)} for each in changes]
        return [*kept, change]

    phases = [{**phase, "changes": moved(phase["changes"])} for phase in plan.get("phases", [])]
    return {
        **plan,
        "changes": moved(plan["changes"]),
        "phases": phases,
        "files": new.json(),
    }


def _moved(value: Any, old: JobFiles, new: JobFiles) -> Any:
    """A path in the old directory as one in the new one; anything else as it is."""
    inside = f"{old.directory}/"
    if isinstance(value, str) and value.startswith(inside):
        return f"{new.directory}/{value.removeprefix(inside)}"
    return value
