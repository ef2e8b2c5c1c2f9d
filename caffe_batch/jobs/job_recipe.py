"""A job's files read back: what a phase trains, and what the plan had changed for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.jobs.job import JobDirectory, PlanFacts
from caffe_batch.jobs.job_files import edited_net, edited_solver
from caffe_batch.memory.build import Build
from caffe_batch.memory.predict import CaffeMemory
from caffe_batch.net.recipe import Recipe, follow_solver
from caffe_batch.net.sources import Sources
from caffe_batch.planning.edits.changes import Change
from caffe_batch.prototxt import read_solver


@dataclass(frozen=True)
class JobPhase:
    """One phase of a job, as its files are now.

    Attributes:
        recipe: Its solver and nets, the files of the job directory.
        changes: What the plan had changed in the user's files for it.
    """

    recipe: Recipe
    changes: tuple[Change, ...]

    def texts(self, changes: Sequence[Change]) -> dict[Path, str]:
        """The files that some changes touch, with the changes made."""
        recipe, texts = self.recipe, {}
        files = {f"test_net_{i}": test for i, test in enumerate(recipe.tests)}
        files["net"] = recipe.train
        for name in {change.file for change in changes} - {"solver"}:
            path = files[name].path
            if path is not None:
                texts[path] = edited_net(files[name], changes, name)
        if recipe.solver_path is not None and any(each.file == "solver" for each in changes):
            text = recipe.solver_path.read_text(encoding="utf-8", errors="surrogateescape")
            texts[recipe.solver_path] = edited_solver(recipe, text, changes)
        return texts


def read_job_phases(job: JobDirectory, plan: PlanFacts) -> tuple[JobPhase, ...]:
    """The phases of a job.

    Raises:
        InputError: A file can't be read, or plan.json is of a version that doesn't say enough.
    """
    content = job.plan_content()
    listed = [phase.get("changes") for phase in content.get("phases", ())]
    listed = listed or [content.get("changes")]
    try:
        changes = [tuple(map(Change.from_json, each or ())) for each in listed]
    except KeyError as error:
        raise InputError(
            f"{job.plan}: the changes have no {error}, so they can't be changed again",
            hint="An older version planned it: plan again.",
        ) from error
    return tuple(
        JobPhase(_recipe(job, phase.solver), own)
        for phase, own in zip(plan.phases, changes, strict=True)
    )


def _recipe(job: JobDirectory, path: Path) -> Recipe:
    """A solver of the job with its nets: those in the job directory, wherever it has moved."""
    solver = read_solver(path, allow_unknown_fields=True)

    def here(name: str) -> str:
        inside = job.path / Path(name).name
        return str(inside) if inside.is_file() else name

    for field in ("net", "train_net"):
        if solver.HasField(field):
            setattr(solver, field, here(getattr(solver, field)))
    solver.test_net[:] = [here(name) for name in solver.test_net]
    return follow_solver(solver, path, allow_unknown_fields=True)


def model_of(job: JobDirectory, plan: PlanFacts, recipe: Recipe) -> CaffeMemory:
    """The memory model that the plan was made with, of a recipe of the job."""
    content = job.plan_content()
    shapes = {top: tuple(shape) for top, shape in content.get("input_shapes", {}).items()}
    return CaffeMemory(
        recipe,
        Sources((plan.working_directory, job.path), shapes),
        "cpu" if plan.cpu_mode else "gpu",
        bool(content.get("allow_unknown")),
        Build(content.get("build") or content.get("engine", Build.CAFFE.value)),
        half=bool(content.get("half")),
    )


def joined(before: Sequence[Change], after: Iterable[Change]) -> list[Change]:
    """The changes from the user's files to the newest ones: ``before``, then ``after``.

    What comes back to the user's own value is left out.
    """
    changes = {change.place: change for change in before}
    for change in after:
        known = changes.get(change.place)
        changes[change.place] = replace(change, before=known.before) if known else change
    return [change for change in changes.values() if change.before != change.after]


def with_changes(content: Mapping[str, Any], changes: Sequence[Sequence[Change]]) -> dict[str, Any]:
    """plan.json with other lists of changes, one for each phase."""
    lists = [[change.json() for change in each] for each in changes]
    phases = [
        {**phase, "changes": own}
        for phase, own in zip(content.get("phases", ()), lists, strict=False)
    ]
    return {**content, "changes": lists[0], "phases": phases}
