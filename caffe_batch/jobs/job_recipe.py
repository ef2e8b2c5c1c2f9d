"""A job's files read back: what a stage trains, and what the plan had changed for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_files import edited_net, edited_solver
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.layers.registry import Registry
from caffe_batch.net.reading import follow_solver
from caffe_batch.net.recipe import Recipe
from caffe_batch.planning.edits.changes import Change
from caffe_batch.prototxt import read_solver


@dataclass(frozen=True)
class JobStage:
    """One stage of a job, as its files are now.

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


def read_job_stages(job: JobDirectory, plan: PlanFile) -> tuple[JobStage, ...]:
    """The stages of a job.

    Raises:
        InputError: A file can't be read, or plan.json is of a version that doesn't say enough.
    """
    changes, rules = plan.stage_changes(), plan.registry()
    return tuple(
        JobStage(job_recipe(job, stage.solver, rules), own)
        for stage, own in zip(plan.stages, changes, strict=True)
    )


def job_recipe(job: JobDirectory, path: Path, rules: Registry) -> Recipe:
    """A solver of the job with its nets: those in the job directory, wherever it has moved."""
    solver = read_solver(path, allow_unknown_fields=True)

    def here(name: str) -> str:
        inside = job.path / Path(name).name
        return str(inside) if inside.is_file() else name

    for field in ("net", "train_net"):
        if solver.HasField(field):
            setattr(solver, field, here(getattr(solver, field)))
    solver.test_net[:] = [here(name) for name in solver.test_net]
    return follow_solver(solver, path, allow_unknown_fields=True, rules=rules)


def joined(before: Sequence[Change], after: Iterable[Change]) -> list[Change]:
    """The changes from the user's files to the newest ones: ``before``, then ``after``.

    Fields that end up with the user's own value are left out.
    """
    changes = {change.place: change for change in before}
    for change in after:
        known = changes.get(change.place)
        changes[change.place] = replace(change, before=known.before) if known else change
    return [change for change in changes.values() if change.before != change.after]
