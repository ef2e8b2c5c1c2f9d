"""``as_is``: trains files as they are, without a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_batch import engines
from caffe_batch.api.arguments import Files, files
from caffe_batch.api.jobs import Job
from caffe_batch.api.recipes import RecipeFiles, noted, with_solver
from caffe_batch.jobs.job_files import write_as_is
from caffe_batch.net import Recipe, Sources
from caffe_batch.solver.checks import check_solver
from caffe_batch.training.checks import check_counts_samples, check_is_fed, check_own_types


@dataclass(frozen=True, kw_only=True)
class AsIs:
    """A solver and its nets, to be trained as they are.

    Attributes:
        recipe: The files as they were read; if no solver was given, with the template's.
        sources: Where their data was found.
        engine: The engine that trains.
        solver_text: The solver from the template, if the user gave none.
        file_notes: How the files were found, one sentence each.
    """

    recipe: Recipe
    sources: Sources
    engine: str
    solver_text: str | None
    file_notes: tuple[str, ...]

    def check_trains(self, *, noise_scale: bool = False) -> None:
        """Refuse what :meth:`Job.train` would refuse, before anything is written.

        Args:
            noise_scale: Whether to measure the noise scale as well.

        Raises:
            InputError: It should be measured, but can't.
        """
        if noise_scale:
            check_counts_samples(None)

    def write(self, directory: str | Path) -> Job:
        """Write solver.prototxt, net.prototxt and plan.json.

        The nets are copies, and in the solver only paths change. ``Job.train`` supervises and
        continues the training like that of any job; what would need a plan is refused or left
        out: a smaller split after an out-of-memory, epochs, predicted memory, the audit.

        Args:
            directory: Created if it doesn't exist. Files of the recipe are never overwritten.

        Raises:
            InputError: The directory already contains a job, or files of these names.
            OSError: It can't be written; nothing is then left there.
        """
        written = write_as_is(
            self.recipe,
            self.solver_text,
            self.sources,
            Path(directory),
            engine=self.engine,
            notes=self.file_notes,
        )
        return Job._of(written)


def as_is(
    net: str | Path,
    *,
    solver: str | Path | None = None,
    allow_unknown_fields: bool = False,
    rules: Files = (),
    fork: str | None = None,
    data: str | Path | None = None,
    engine: str = engines.DEFAULT,
) -> AsIs:
    """Read files that are to be trained as they are.

    Nothing is planned, so nothing needs to be known about the layers: nets with Python layers, or
    with types that only your Caffe has, are supervised, continued and reported all the same. The
    module of a Python layer is looked for on PYTHONPATH, then in the working directory.

    >>> import caffe_batch as cb
    >>> cb.as_is("lenet_digits").recipe.solver.iter_size
    1

    Args:
        net: A net file, a solver file (then its nets are followed), or the name of a template.
        solver: The solver to train ``net`` with; the net that it names isn't read.
        allow_unknown_fields: Keep fields unknown to Caffe 1.0 for a Caffe that knows them, with a
            Python warning for each.
        rules: Python files with rules for other layer types; the check of the data uses them.
        fork: The fork of Caffe that the net is written for, as :func:`plan` takes it.
        data: A data set made by :func:`data`, which sets the sources, classes, means and crop of
            a template.
        engine: The engine that trains.

    Raises:
        InputError: A file can't be read, the solver can't train, or the net waits for a program to
            feed it.
    """
    found = RecipeFiles(
        net, solver, (),
        allow_unknown=True, allow_unknown_fields=allow_unknown_fields, rules=files(rules),
        fork=fork, data=data, as_is=True,
    )  # fmt: skip
    with noted(found.recipe.notes):
        recipe, made = with_solver(
            found.recipe, found.sources, allow_unknown=True, template=found.template
        )
        check_solver(recipe.solver, recipe.solver_path)
        check_is_fed(recipe)
        check_own_types((recipe.train, *recipe.tests), engines.find(engine))
    return AsIs(
        recipe=recipe,
        sources=found.sources,
        engine=engines.find(engine).name,
        solver_text=made.text if made else None,
        file_notes=(*recipe.notes, made.note) if made else recipe.notes,
    )
