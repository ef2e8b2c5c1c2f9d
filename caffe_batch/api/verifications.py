"""``verify``: accumulation against the whole batch, measured on real Caffe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from caffe_batch import engines
from caffe_batch.api.arguments import Files, Shapes, choice, several, whole
from caffe_batch.api.machines import RuntimeName, find_runtime
from caffe_batch.api.recipes import RecipeFiles, noted, with_solver
from caffe_batch.engines.base import Engine
from caffe_batch.errors import CaffeBatchError, InputError, Option, Text
from caffe_batch.experiments import engine_verification, verification
from caffe_batch.experiments.verification import Judgement, judge
from caffe_batch.experiments.verify import verify as measure
from caffe_batch.experiments.verify_engines import Side
from caffe_batch.experiments.verify_engines import verify_engines as measure_engines
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import read_job_stages
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.layers.hints import TypeHints
from caffe_batch.memory import MemoryModel
from caffe_batch.net import Recipe, Sources
from caffe_batch.net.data.check import check_data
from caffe_batch.planning.audit.findings import Cause, Finding
from caffe_batch.planning.precision import Precision
from caffe_batch.training.checks import check_precision


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Verification(verification.Verification):
    """batch_size x iter_size against the whole batch, measured on real Caffe.

    It has everything that :class:`caffe_batch.experiments.verification.Verification` has:
    ``gradient``, ``weights`` and ``losses`` (relative errors with the plan's changes and without),
    ``agrees``, ``parameters``, ``findings``, ``notes``, ``json()``, and:

    Attributes:
        file_notes: How the files were found and what the data check says, one sentence each.
    """

    file_notes: tuple[str, ...]

    @property
    def judgement(self) -> Judgement:
        """Whether what the audit says holds, with a sentence about it."""
        return judge(self)

    def check(self) -> None:
        """Raise a CaffeBatchError if trainings differ that the audit calls the same."""
        for measured in (self, self.own):
            verdict = None if measured is None else judge(measured)
            if verdict is not None and not verdict.held:
                raise CaffeBatchError(
                    verdict.sentence,
                    hint="The audit is wrong about this net: please report it with the net. Don't "
                    "trust its verdict here.",
                )

    def __repr__(self) -> str:
        agrees = "agrees" if self.agrees else "differs"
        return (
            f"<Verification {self.batch_size} x {self.iter_size} {agrees}: gradient "
            f"{self.gradient.compensated:.1e}>"
        )


def verify(
    net: str | Path,
    *,
    solver: str | Path | None = None,
    input_shape: Shapes = (),
    allow_unknown: bool = False,
    allow_unknown_fields: bool = False,
    rules: Files = (),
    data: str | Path | None = None,
    fork: str | None = None,
    treat_as: str | Iterable[str] = (),
    same_shape: str | Iterable[str] = (),
    run_python_layers: bool = False,
    batch_size: int | None = None,
    iter_size: int | None = None,
    no_compensate: str | Iterable[str] = (),
    engine: str | None = None,
    runtime: RuntimeName = None,
) -> Verification:
    """Measure on real Caffe whether accumulation is the same training.

    It trains for three updates at batch_size x iter_size and with the whole batch in one pass, on
    the CPU, from the same weights with the same samples, with the changes that a plan makes and
    without them. Random draws are held equal in both, or turned off; their own effect is measured
    separately. The net's own data is used if it is available, otherwise samples are made up.

    >>> import caffe_batch as cb
    >>> cb.verify("prototxt/mlp/solver.prototxt").agrees  # doctest: +SKIP
    True

    Args:
        net: A net file, a solver file (then its nets are followed), the name of a template, or the
            directory of a job.
        solver: The solver to train ``net`` with; the net that it names isn't read.
        input_shape: As :func:`plan` takes it.
        allow_unknown: Accept layer types without a rule.
        allow_unknown_fields: Skip fields unknown to Caffe 1.0, with a Python warning for each.
        rules: Python files with rules for other layer types.
        fork: The fork of Caffe that the net is written for: ``"ssd"``, ``"rcnn"``, ``"deeplab"``,
            ``"segnet"``, ``"pspnet"``, ``"nvcaffe"`` or ``"c3d"``; None to decide by the net's
            layer types.
        data: A data set made by :func:`data`, which sets the sources, classes, means and crop of
            a template.
        treat_as: Types to be treated as others: ``"BN=BatchNorm"``, or several of these.
        same_shape: Types whose tops have the shape of their largest bottom, or of one of them:
            ``"Axpy"``, ``"Axpy=1"``, or several.
        run_python_layers: Ask Python layers for the shapes of their tops: they are built once,
            in a separate process. This runs their code.
        batch_size: Samples per micro-batch; 4 if None, or another small size that the net and
            the memory allow.
        iter_size: Micro-batches per update, at least 2; 3 if None. If neither number is given,
            files that accumulate (such as a plan's) are also measured at their own split, which
            is ``own`` of the result.
        no_compensate: Effects of accumulation not to compensate for, as :func:`plan` takes them.
        engine: The engine that trains; None for that of the job, or else Caffe.
        runtime: The Python with the engine, as :meth:`Job.train` takes it.

    Raises:
        InputError: The files can't be trained, or Caffe would refuse the net.
        DoesNotFitError: Not even the smallest batch fits the memory of this machine.
        TrainingError: Caffe failed.
        RuntimeMissingError: There is no such Python with caffe.
    """
    refused = frozenset(choice("no_compensate", each, Cause) for each in several(no_compensate))
    size = whole("batch_size", batch_size)
    passes = whole("iter_size", iter_size, least=2)
    plan = _plan(net, solver)
    name = engine or (plan.engine if plan else engines.DEFAULT)
    subject = _subject(
        net, solver, input_shape,
        allow_unknown=allow_unknown, allow_unknown_fields=allow_unknown_fields, rules=rules,
        batch_size=size, fork=fork, hints=TypeHints.of(several(treat_as), several(same_shape)),
        run_python_layers=run_python_layers, data=data, engine=name,
    )  # fmt: skip
    recipe, sources, unknown = subject.recipe, subject.sources, subject.allow_unknown
    notes = recipe.notes
    with noted(notes):
        trainer = engines.find(name)
        model = trainer.memory_model(recipe, sources, "cpu", allow_unknown=unknown)

        def audited(size: int, passes: int) -> Sequence[Finding]:
            # The whole batch in one pass is what the recipe says: nothing is refused there.
            kept = refused if passes > 1 else frozenset()
            return trainer.audit(model, batch_size=size, iter_size=passes, refused=kept)

        checked = check_data(recipe, sources, allow_unknown=unknown)
        checked.raise_errors()
        python = find_runtime(runtime, name)
        found = measure(model, python, audited, batch_size=size, iter_size=passes)
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return Verification(**facts, file_notes=(*notes, *checked.sentences()))


#: What to do about engines that differ for a reason unknown to the audit.
_ENGINES_HINT: Text = [
    "BatchNorm over a few samples multiplies rounding by more than the control may show: see "
    "whether a larger ", Option("batch_size"), " differs too. If so, please report it with the "
    "net; the engine with the large error is the one to look at.",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EngineVerification(engine_verification.EngineVerification):
    """One training on two engines, measured on the CPU.

    It has everything that
    :class:`caffe_batch.experiments.engine_verification.EngineVerification` has: ``gradient``,
    ``weights``, ``first_loss`` and ``loss`` (relative errors of both engines against double
    precision, and what rounding alone explains), ``agrees``, ``judgement``, ``parameters``,
    ``findings``, ``notes``, ``json()``, and:

    Attributes:
        file_notes: How the files were found and what the data check says, one sentence each.
    """

    file_notes: tuple[str, ...]

    def check(self) -> None:
        """Raise a CaffeBatchError if the engines train differently."""
        if not self.agrees:
            raise CaffeBatchError(
                self.judgement.sentence,
                hint=None if self.findings else _ENGINES_HINT,
            )

    def __repr__(self) -> str:
        agrees = "agree" if self.agrees else "differ"
        return f"<EngineVerification {' and '.join(self.engines)} {agrees}>"


def verify_engines(
    net: str | Path,
    *,
    against: str,
    engine: str | None = None,
    solver: str | Path | None = None,
    input_shape: Shapes = (),
    allow_unknown: bool = False,
    allow_unknown_fields: bool = False,
    rules: Files = (),
    fork: str | None = None,
    treat_as: str | Iterable[str] = (),
    same_shape: str | Iterable[str] = (),
    run_python_layers: bool = False,
    data: str | Path | None = None,
    batch_size: int | None = None,
    iter_size: int | None = None,
    precision: Literal["float32", "tf32", "bf16"] | None = None,
    runtime: RuntimeName = None,
    against_runtime: RuntimeName = None,
) -> EngineVerification:
    """Measure whether an engine trains a net as another one does.

    Both train for three updates on the CPU, from the same weights with the same samples: the net's
    own data if it is available, otherwise made-up samples. Random draws are held equal, or turned
    off. Both are compared with the same training in double precision; differences that rounding
    alone explains are allowed.

    >>> import caffe_batch as cb
    >>> cb.verify_engines("prototxt/mlp/solver.prototxt", against="caffe")  # doctest: +SKIP
    <EngineVerification pytorch and caffe agree>

    Args:
        net: As :func:`verify` takes it.
        against: The engine to compare with.
        engine: The engine to verify; None for that of the job, or else the other one.
        solver: The solver to train ``net`` with; the net that it names isn't read.
        input_shape: As :func:`plan` takes it.
        allow_unknown: As :func:`verify` takes it; so are the next seven.
        allow_unknown_fields: Likewise.
        rules: Likewise.
        fork: Likewise.
        treat_as: Likewise.
        same_shape: Likewise.
        run_python_layers: Likewise.
        data: Likewise.
        batch_size: Samples per micro-batch; 4 if None, or another small size that the net and
            the memory allow.
        iter_size: Micro-batches per update; those of the solver if None, but at most 3.
        precision: The precision of PyTorch's arithmetic; None for the job's, or else ``"float32"``.
        runtime: The Python with ``engine``, as :meth:`Job.train` takes it.
        against_runtime: The Python with ``against``.

    Raises:
        InputError: The files can't be trained, or both engines are the same.
        DoesNotFitError: Not even the smallest batch fits the memory of this machine.
        TrainingError: An engine failed.
        RuntimeMissingError: There is no such Python.
    """
    size, passes = whole("batch_size", batch_size), whole("iter_size", iter_size)
    plan = _plan(net, solver)
    name = engine or _other_engine(against, plan.engine if plan else None)
    if name == engines.find(against).name:
        raise InputError(
            [Option("against", against), f" compares with {against}, which is the engine itself"],
            hint=["Name another engine: ", Option("against", _other_engine(name, None)), "."],
        )
    subject = _subject(
        net, solver, input_shape,
        allow_unknown=allow_unknown, allow_unknown_fields=allow_unknown_fields, rules=rules,
        batch_size=size, fork=fork, hints=TypeHints.of(several(treat_as), several(same_shape)),
        run_python_layers=run_python_layers, data=data, engine=name,
    )  # fmt: skip
    recipe, sources, unknown = subject.recipe, subject.sources, subject.allow_unknown
    notes = recipe.notes
    with noted(notes):
        trainer, other = engines.find(name), engines.find(against)
        exactness = choice("precision", precision or _precision(plan, trainer), Precision)
        check_precision(trainer, exactness)
        model = trainer.memory_model(recipe, sources, "cpu", allow_unknown=unknown)
        checked = check_data(recipe, sources, allow_unknown=unknown)
        checked.raise_errors()
        one = Side(trainer, find_runtime(runtime, name))
        found = measure_engines(
            model,
            one,
            Side(other, find_runtime(against_runtime, against)),
            _of_engines(model, trainer, other, exactness),
            batch_size=size,
            iter_size=passes,
            precision=exactness,
        )
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return EngineVerification(**facts, file_notes=(*notes, *checked.sentences()))


def _plan(net: str | Path, solver: str | Path | None) -> PlanFile | None:
    """The plan of the job that a call names; None for files and templates."""
    is_job = solver is None and Path(net).is_dir()
    return JobDirectory(Path(net)).read_plan() if is_job else None


def _other_engine(name: str, planned: str | None) -> str:
    """The engine that a job is planned for, or else the first that isn't the one named."""
    return planned or next(each for each in engines.NAMES if each != name)


def _precision(plan: PlanFile | None, engine: Engine) -> str:
    """A job's precision, if the engine has it."""
    has = plan is not None and plan.precision in engine.precisions
    return (plan.precision if plan and has else Precision.FLOAT32).value


def _of_engines(
    model: MemoryModel, one: Engine, other: Engine, precision: Precision
) -> list[Finding]:
    """What the audit says about two engines, except about draws, which are held equal."""
    size = model.batch_size
    found = [
        *one.own_findings(model, size, precision),
        *other.own_findings(model, size, Precision.FLOAT32),
    ]
    return [each for each in found if each.cause is not Cause.ENGINE_DRAWS]


@dataclass(frozen=True)
class _Subject:
    """What is verified.

    Attributes:
        recipe: Its recipe, with a solver.
        sources: Where its data is.
        allow_unknown: Whether layers without a rule are accepted.
        files: What the recipe was read from, which keeps a template's text; None for a job.
    """

    recipe: Recipe
    sources: Sources
    allow_unknown: bool
    files: RecipeFiles | None = None


def _subject(
    net: str | Path,
    solver: str | Path | None,
    input_shape: Shapes,
    *,
    allow_unknown: bool,
    **asked: Any,
) -> _Subject:
    """The files, template or job that a call names; ``asked`` is for :class:`RecipeFiles`.

    Raises:
        InputError: They can't be read.
    """
    if solver is None and Path(net).is_dir():
        recipe, sources, unknown = _job_files(Path(net))
        return _Subject(recipe, sources, allow_unknown or unknown)
    files = RecipeFiles(net, solver, input_shape, allow_unknown=allow_unknown, **asked)
    sources, unknown = files.sources, files.allow_unknown
    with noted(files.recipe.notes):
        recipe, _ = with_solver(
            files.recipe, sources, allow_unknown=unknown, template=files.template
        )
    return _Subject(recipe, sources, unknown, files)


def _job_files(path: Path) -> tuple[Recipe, Sources, bool]:
    """The first stage of a job, where its data is, and whether layers without a rule are accepted.

    Raises:
        InputError: It isn't a job directory, or its files can't be read.
    """
    job = JobDirectory(path)
    plan = job.read_plan()
    return (
        read_job_stages(job, plan)[0].recipe,
        plan.sources(plan.working_directory, job.path),
        plan.allow_unknown,
    )
