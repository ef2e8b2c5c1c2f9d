"""``noise``: the gradient noise scale, and what it means for the effective batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.api.arguments import Files, Shapes, several, whole
from caffe_batch.api.arguments import files as paths
from caffe_batch.api.machines import RuntimeName, device_of, find_runtime
from caffe_batch.api.recipes import RecipeFiles, noted
from caffe_batch.errors import InputError, Option
from caffe_batch.experiments.noise import Measurement, NoiseOptions, measure_noise
from caffe_batch.layers.hints import TypeHints
from caffe_batch.net.data.check import check_data
from caffe_batch.planning.noise import Advice, advise


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Noise(Measurement):
    """A gradient noise scale, and what it means for an effective batch.

    It has everything that :class:`caffe_batch.experiments.noise.Measurement` has: ``noise`` (the
    estimate in samples, with its interval), ``batch_size``, ``device``, ``notes``, and:

    Attributes:
        effective_batch: Samples per update that the advice refers to.
        file_notes: How the files were found, one sentence each.
    """

    effective_batch: int
    file_notes: tuple[str, ...]

    @property
    def advice(self) -> Advice:
        """What the noise scale means for the effective batch."""
        return advise(self.noise, self.effective_batch)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch noise``."""
        return {
            **super().json(),
            "effective_batch": self.effective_batch,
            "advice": self.advice.json(),
        }

    def __repr__(self) -> str:
        return f"<Noise scale {self.noise}, effective batch {self.effective_batch}>"


def noise(
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
    weights: Files | None = None,
    batch_size: int | None = None,
    effective_batch: int | None = None,
    groups: int = 10,
    passes: int = 10,
    engine: str = engines.DEFAULT,
    runtime: RuntimeName = None,
    cpu: bool = False,
    gpu: int | None = None,
    threads: int = 1,
    observer: Callable[[int], None] = lambda group: None,
) -> Noise:
    """Measure the gradient noise scale on real Caffe.

    The gradients of many micro-batches of the net's own training data are compared, all at the
    same weights. Below the noise scale a larger effective batch saves updates; far above it, it
    saves nothing. Nothing is trained and nothing is written.

    >>> import caffe_batch as cb
    >>> found = cb.noise("solver.prototxt", weights="w.caffemodel")  # doctest: +SKIP
    >>> found.advice.text  # doctest: +SKIP

    Args:
        net: A net file, a solver file (then its nets are followed), or the name of a template.
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
        weights: .caffemodel files to measure at; the fillers' initial values if None.
        batch_size: Samples per micro-batch; the file's own if None.
        effective_batch: Samples per update that the advice refers to; the files' own if None.
        groups: Groups of micro-batches, at least 5; more groups narrow the interval.
        passes: Micro-batches per group, at least 2; more of them help if the noise is large.
        engine: What computes the gradients.
        runtime: The Python with caffe, as :meth:`Job.train` takes it.
        cpu: Run on the CPU even if there is a GPU.
        gpu: Run on this GPU, in CUDA's numbers; None for the solver's device_id.
        threads: CPU threads for the matrix products.
        observer: Called with the number of each finished group.

    Raises:
        InputError: The files, the weights or the arguments don't allow a measurement.
        TrainingError: Caffe failed.
        RuntimeMissingError: There is no such Python with caffe.
    """
    options = NoiseOptions(
        batch_size=whole("batch_size", batch_size),
        groups=whole("groups", groups, least=5) or 10,
        passes=whole("passes", passes, least=2) or 10,
        weights=paths(weights),
        device=device_of(cpu=cpu, gpu=whole("gpu", gpu, least=0)),
        threads=whole("threads", threads) or 1,
    )
    asked = whole("effective_batch", effective_batch)
    files = RecipeFiles(
        net,
        solver,
        input_shape,
        allow_unknown=allow_unknown,
        allow_unknown_fields=allow_unknown_fields,
        rules=rules,
        batch_size=options.batch_size,
        fork=fork,
        hints=TypeHints.of(several(treat_as), several(same_shape)),
        run_python_layers=run_python_layers,
        data=data,
        engine=engine,
    )
    recipe = files.recipe
    with noted(recipe.notes):
        model = engines.find(engine).memory_model(
            recipe, files.sources, "cpu", allow_unknown=files.allow_unknown
        )
        own_batch = model.batch_size * recipe.solver.iter_size
        if asked is None and own_batch < 1:
            raise InputError(
                f"the files' effective batch is batch_size {model.batch_size} x iter_size "
                f"{recipe.solver.iter_size}, but an update takes at least one sample",
                hint=[
                    "Correct them, or give ", Option("effective_batch"), " and ",
                    Option("batch_size"), ".",
                ],
            )  # fmt: skip
        checked = check_data(
            replace(recipe, tests=()), files.sources, allow_unknown=files.allow_unknown
        )  # it doesn't test
        checked.raise_errors()
        found = measure_noise(model, find_runtime(runtime, engine), options, observer)
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return Noise(
        **facts,
        effective_batch=asked or own_batch,
        file_notes=(*recipe.notes, *checked.sentences()),
    )
