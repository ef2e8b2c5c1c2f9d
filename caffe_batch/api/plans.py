"""``plan``: batch_size x iter_size for an effective batch and a memory budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from caffe_batch import engines, planning
from caffe_batch.api.arguments import (
    BuildName,
    Files,
    Number,
    Shapes,
    choice,
    files,
    positive,
    several,
    share,
    whole,
)
from caffe_batch.api.jobs import Job
from caffe_batch.api.recipes import noted
from caffe_batch.api.requests import PlanRequest, Prepared
from caffe_batch.errors import InputError, Option
from caffe_batch.jobs.job_files import write_job
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build
from caffe_batch.net import Recipe
from caffe_batch.net.data.check import check_data as look_at_data
from caffe_batch.net.data.findings import DataCheck, DataReport, Progress, no_progress
from caffe_batch.planning import Cause, LrScaling, make_plan
from caffe_batch.planning.edits.changes import applied
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.scaling import Scale, gradient_bytes, scaling
from caffe_batch.planning.schedule.growth import Schedule
from caffe_batch.planning.shared import shared_of
from caffe_batch.sizes import format_size, parse_rate
from caffe_batch.solver.checks import check_solver
from caffe_batch.training.checks import (
    check_accumulates,
    check_is_fed,
    check_measures_alone,
    check_ranks,
)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Plan(planning.Plan):
    """A plan with the files that it was made for, ready to be written.

    It has everything that :class:`caffe_batch.planning.Plan` has: ``batch_size``, ``iter_size``,
    ``effective_batch``, ``predicted_peak_bytes``, ``candidates``, ``findings`` (the audit),
    ``changes``, ``notes``, ``verdict()``, ``summary()``, ``json()``, and:

    Attributes:
        prepared: The files, the memory model and the options that it was made from.
        data: What the check of the data found: its ``remarks``, and how much it read.
    """

    prepared: Prepared
    data: DataReport

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch plan`` and plan.json."""
        fork = self.recipe.fork
        return {
            **super().json(),
            "fork": fork.json() if fork else None,
            "skipped_fields": [each.json() for each in self.recipe.skipped],
            "data": self.data.json(),
        }

    @property
    def recipe(self) -> Recipe:
        """The solver and its nets as they were read; if no solver was given, the template's."""
        return self.prepared.model.recipe

    def scaling(self, *, samples_per_s: float, link: str) -> tuple[Scale, ...]:
        """How long an update of this effective batch takes on 1, 2, 4, ... 1,024 GPUs, on paper.

        Passes take as long as on one GPU, and are followed by one exchange of the gradients in a
        ring.

        Args:
            samples_per_s: Samples that one GPU trains per second, as ``train`` shows them.
            link: What each GPU can send to the next one while it receives as much: ``"25GB/s"``.

        Raises:
            InputError: One of them is no such number.
        """
        if not 0 < samples_per_s < float("inf"):
            raise InputError(
                [Option("samples_per_s"), f": {samples_per_s!r} is not a rate above 0"],
                hint="Give what train shows on one GPU.",
            )
        model = self.prepared.model.on_one_gpu()
        return tuple(
            scaling(
                effective_batch=self.effective_batch,
                batch_size=self.batch_size_per_gpu,
                gradients=gradient_bytes(model.train_net(self.batch_size_per_gpu)),
                samples_per_s=samples_per_s,
                link_bytes_per_s=parse_rate(link),
            )
        )

    @property
    def file_notes(self) -> tuple[str, ...]:
        """How the files were found, one sentence each."""
        return self.prepared.notes

    def check_trains(self, *, noise_scale: bool = False) -> None:
        """Refuse a plan that :meth:`Job.train` would refuse, before anything is written.

        Args:
            noise_scale: Whether to measure the noise scale as well.

        Raises:
            InputError: The plan is for more GPUs than the engine trains on; nothing gives the
                net its data, or says how long it trains; or its updates have one micro-batch
                each, and the noise scale should be measured.
        """
        check_ranks(self.gpus, engines.find(self.engine))
        check_is_fed(self.recipe)
        planned = applied(self.recipe, self.changes).solver
        check_solver(planned, self.recipe.solver_path)
        if noise_scale:
            check_measures_alone(self.gpus)
            check_accumulates(max(self.iter_sizes))

    def write(self, directory: str | Path) -> Job:
        """Write solver.prototxt, net.prototxt and plan.json.

        Args:
            directory: Created if it doesn't exist. Files of the recipe are never overwritten.

        Raises:
            InputError: The directory already contains a job, or files of these names.
            OSError: It can't be written; nothing is then left there.
        """
        found = self.prepared
        model = found.model
        target = Path(directory)
        return Job._of(write_job(self, model.recipe, found.solver_text, model.sources, target))

    def __repr__(self) -> str:
        factors = f"{self.batch_size} x {self.iter_size}"
        gpus = f" x {self.gpus} GPUs" if self.gpus > 1 and not self.divides_batch else ""
        return (
            f"<Plan {self.effective_batch} = {factors}{gpus}, "
            f"{format_size(self.predicted_peak_bytes)} of {format_size(self.budget.usable_bytes)}>"
        )

    def _repr_html_(self) -> str:
        from caffe_batch.reporting.notebook import plan_html

        return plan_html(self)


def plan(
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
    gpu_memory: str | int | None = None,
    mode: Mode = "gpu",
    reserve: str | int | None = None,
    gpu: int | None = None,
    engine: str = engines.DEFAULT,
    build: BuildName = "caffe",
    half: bool = False,
    effective_batch: int | None = None,
    gpus: int = 1,
    tolerance: Number = "0%",
    batch_size: int | None = None,
    iter_size: int | None = None,
    prefer_multiple_of: int = 1,
    epochs: Number | None = None,
    test_every: Number | None = None,
    snapshot_every: Number | None = None,
    lr_scaling: Literal["none", "linear", "sqrt"] = "none",
    recipe_batch: int | None = None,
    schedule: Literal["decay", "grow", "hybrid"] = "decay",
    max_batch: int | None = None,
    keep_schedule: bool = False,
    keep_tests: bool = False,
    shrink_tests: bool = False,
    no_compensate: str | Iterable[str] = (),
    precision: Literal["float32", "tf32", "bf16"] = "float32",
    sync_batch_norm: bool = False,
    sync_valid: bool = False,
    train_records: int | None = None,
    test_records: int | Iterable[int] = (),
    check_data: Literal["none", "quick", "all"] = "quick",
    progress: Progress = no_progress,
) -> Plan:
    """Find the batch_size x iter_size that fits a memory budget.

    The plan takes the largest batch_size that divides the effective batch exactly over the GPUs
    and whose predicted memory fits. Nothing is written.

    >>> import caffe_batch as cb
    >>> plan = cb.plan("caffenet", effective_batch=256, gpu_memory="2GiB",
    ...                reserve="512MiB", input_shape="data=3x256x256")
    >>> plan
    <Plan 256 = 64 x 4, 1.45 GiB of 1.5 GiB>
    >>> plan.batch_size, plan.iter_size, plan.predicted_peak_bytes
    (64, 4, 1556077024)
    >>> plan.verdict()
    'On average the same training, though not number for number: random_draws.'

    Args:
        net: A net file, a solver file (then its nets are followed), or the name of a template.
        solver: The solver to train ``net`` with; the net that it names isn't read.
        input_shape: Sizes of the records of data layers, without the batch, if the data isn't
            available, as ``{"data": (3, 256, 256)}`` or ``"data=3x256x256"``.
        allow_unknown: Accept layer types without a rule; totals are then lower bounds.
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
        gpu_memory: The memory that a run may use on each GPU: bytes, a size such as ``"8GiB"``,
            ``"auto"`` for all that is free there now, or a share of that such as ``"80%"``.
        mode: Which memory that is: the GPU's, or the host's in Caffe's CPU mode (``"cpu"``).
        reserve: The part of ``gpu_memory`` to keep for the CUDA context, in bytes or as a size;
            None for what was measured on this GPU, else 512 MiB. In CPU mode, for the process
            itself and the copies that a snapshot makes; None for 96 MiB and these copies.
        gpu: The GPU to train on later, in CUDA's numbers; ``"auto"`` and shares refer to it; None
            for the solver's device_id. Pass the same to :meth:`Job.train`.
        engine: The engine that trains.
        build: The build of Caffe: without cuDNN (exact), ``"cudnn"`` (bounds), ``"nvcaffe"`` (an
            estimate).
        half: NVCaffe in half precision.
        effective_batch: Samples per update that the recipe needs; the files' own if None.
        gpus: GPUs that share each update.
        tolerance: How far the effective batch may differ from it if that saves passes: ``"5%"``,
            0.05.
        batch_size: Use exactly this batch_size.
        iter_size: Use exactly this iter_size.
        prefer_multiple_of: Prefer a batch_size that is a multiple of this, if one fits.
        epochs: Train for this many epochs; the recipe's if None.
        test_every: Epochs between tests; the recipe's if None.
        snapshot_every: Epochs between snapshots; the recipe's if None.
        lr_scaling: How base_lr follows the effective batch.
        recipe_batch: Samples per update that the files' schedule was written for; their own
            batch if None.
        schedule: Where the recipe drops the learning rate: decay it, grow the batch instead, or
            grow the batch once and then decay (``"hybrid"``).
        max_batch: The largest effective batch that growth may reach; a tenth of the training
            records if None.
        keep_schedule: Don't change any interval.
        keep_tests: Don't change test batches and test_iter.
        shrink_tests: Take the split with the fewest passes, even if a smaller test batch changes a
            score.
        no_compensate: Effects of accumulation not to compensate for: ``"clip_gradients"``,
            ``"loss_normalization"``, ``"loss_sum"``, ``"batch_norm_average"``.
        precision: PyTorch only: ``"tf32"`` and ``"bf16"`` are faster on GPUs, but not the same
            training as Caffe's.
        sync_batch_norm: PyTorch on several GPUs: BatchNorm layers normalise over the samples of
            all of them, as one GPU would with all samples. In Caffe each GPU has its own.
        sync_valid: The same for losses with VALID normalization and an ignore_label: they divide
            by the labels that count on all GPUs.
        train_records: Number of training records, if they can't be counted.
        test_records: Number of test records, if they can't be counted; one number per test net.
        check_data: How much of the data to check, for what would make Caffe fail and for what it
            would silently accept although it can't be intended: a sample with the first and the
            last record (``"quick"``), ``"all"`` or ``"none"``.
        progress: Called while data is checked, with a source, how many of its records are read
            and how many there are; and while the memory of PyTorch is counted, with ``"memory"``,
            how many counts are done and how many there are.

    Raises:
        InputError: A file can't be read, Caffe would refuse it, or the arguments contradict each
            other or the files.
        DoesNotFitError: Not even one sample fits; ``missing_bytes`` says by how much.
    """
    tests = [test_records] if isinstance(test_records, int) else test_records
    request = PlanRequest(
        net=net,
        solver=solver,
        input_shape=input_shape,
        allow_unknown=allow_unknown,
        allow_unknown_fields=allow_unknown_fields,
        rules=files(rules),
        fork=fork,
        treat_as=several(treat_as),
        same_shape=several(same_shape),
        run_python_layers=run_python_layers,
        data=data,
        gpu_memory=gpu_memory,
        mode=mode,
        engine=engine,
        build=choice("build", build, Build),
        half=half,
        reserve=reserve,
        gpu=whole("gpu", gpu, least=0),
        effective_batch=effective_batch,
        epochs=positive("epochs", epochs),
        test_every=positive("test_every", test_every),
        recipe_batch=whole("recipe_batch", recipe_batch),
        train_records=whole("train_records", train_records),
        test_records=tuple(whole("test_records", each) or 0 for each in tests),
        gpus=gpus,
        tolerance=share("tolerance", tolerance),
        batch_size=whole("batch_size", batch_size),
        iter_size=whole("iter_size", iter_size),
        prefer_multiple_of=whole("prefer_multiple_of", prefer_multiple_of) or 1,
        snapshot_every=positive("snapshot_every", snapshot_every),
        lr_scaling=choice("lr_scaling", lr_scaling, LrScaling),
        schedule=choice("schedule", schedule, Schedule),
        max_batch=whole("max_batch", max_batch),
        keep_schedule=keep_schedule,
        keep_tests=keep_tests,
        shrink_tests=shrink_tests,
        no_compensate=tuple(
            choice("no_compensate", each, Cause) for each in several(no_compensate)
        ),
        precision=choice("precision", precision, Precision),
        shared=shared_of(sync_batch_norm=sync_batch_norm, sync_valid=sync_valid),
    )
    found = request.prepare(progress)
    extent = choice("check_data", check_data, DataCheck)
    with noted(found.notes):
        made = make_plan(found.model, found.budget, found.options)
        size = made.batch_size
        for each in (found.model.train_net(size), *found.model.test_nets(size)):
            engines.find(engine).check_net(each)
        checked = look_at_data(
            found.model.recipe,
            found.model.sources,
            extent=extent,
            allow_unknown=found.files.allow_unknown,
            progress=progress,
        )
        checked.raise_errors()
    facts = {field.name: getattr(made, field.name) for field in fields(made)}
    return Plan(**facts, prepared=found, data=checked)
