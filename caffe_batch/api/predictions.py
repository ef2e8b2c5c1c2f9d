"""``memory``: the memory that a net needs when Caffe trains it, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.api.arguments import BuildName, Files, Shapes, choice, several, whole
from caffe_batch.api.machines import counting
from caffe_batch.api.recipes import RecipeFiles, noted, with_its_test
from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Mode
from caffe_batch.layers.hints import TypeHints
from caffe_batch.memory import Build, CaffeMemory, MemoryModel, Prediction
from caffe_batch.net import Net
from caffe_batch.net import batch_size as batch_size_of
from caffe_batch.net.assumed import Assumption, assumptions
from caffe_batch.net.data.findings import Progress, no_progress
from caffe_batch.prototxt import SkippedField
from caffe_batch.sizes import format_size, parse_size, size_text


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Memory(Prediction):
    """The memory of a net in training: the bytes that Caffe itself requests.

    It has everything that :class:`caffe_batch.memory.Prediction` has: ``peak_bytes``,
    ``after_build_bytes``, ``parts``, ``layers``, ``unknown_layers``, ``rounding_bytes`` (what
    cudaMalloc adds), ``uncertain_bytes``, and:

    Attributes:
        files: The files that it was predicted from.
        model: The memory model, which predicts any batch size.
        train, tests: The nets, with their shapes.
        batch_size: Samples of a TRAIN batch.
    """

    files: RecipeFiles
    model: MemoryModel
    train: Net
    tests: tuple[Net, ...]
    batch_size: int

    @property
    def skipped_fields(self) -> tuple[SkippedField, ...]:
        """The fields that Caffe 1.0 doesn't have and that were skipped on request."""
        return self.model.recipe.skipped

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What is assumed about layers without a rule: their batch, and which are losses."""
        return assumptions([node.layer for node in self.train.nodes])

    @property
    def file_notes(self) -> tuple[str, ...]:
        """How the files were found, one sentence each."""
        return self.files.recipe.notes

    def at(self, batch_sizes: Iterable[int]) -> dict[int, int | str]:
        """The predicted peak in bytes at other TRAIN batch sizes, or why Caffe refuses one.

        >>> import caffe_batch as cb
        >>> cb.memory("lenet_digits", input_shape="data=1x8x8").at([16, 32])
        {16: 1256064, 32: 1844800}
        """
        return self.model.peaks(sorted(batch_sizes))

    def plot(self, picture: str | Path, *, budget: str | int | None = None) -> Path:
        """Plot the memory along the net and against the batch size.

        Args:
            picture: A file that ends in .png or .svg.
            budget: A size to draw as a line, in bytes or as text such as ``"8GiB"``.

        Returns:
            The picture.

        Raises:
            InputError: There is no matplotlib, or no batch size to draw against.
            OSError: The picture can't be written.
        """
        file = Path(picture)
        size = batch_size_of([node.layer for node in self.train.nodes])
        around = {size} | {2**power for power in range((4 * size).bit_length())}
        try:
            from caffe_batch.reporting.memory_plot import write_memory_plot

            write_memory_plot(
                self,
                file,
                title=f"{self.model.recipe.train.message.name or file.stem}, batch_size {size}",
                batch_size=size,
                curve=self.model.peaks(sorted(around)),
                budget_bytes=None if budget is None else parse_size(size_text(budget)),
            )
        except ImportError as error:
            raise InputError(
                "the picture needs matplotlib", hint="pip install 'caffe-batch[plot]'"
            ) from error
        return file

    def draw(self, picture: str | Path, *, phase: str = "train") -> Path:
        """Draw the net: layers with their shapes, parameters and bytes.

        Args:
            picture: A file that ends in .png or .svg.
            phase: ``"train"`` or ``"test"``.

        Returns:
            The picture.

        Raises:
            InputError: There is no matplotlib, no such phase, no test net, or another ending.
            OSError: The picture can't be written.
        """
        file = Path(picture)
        if phase not in ("train", "test"):
            raise InputError(
                [Option("phase", phase), " is not a phase"], hint="They are train and test."
            )
        net, found = (self.train, self) if phase == "train" else self._first_test()
        shown = "train" if phase == "train" else "test0"
        sizes = {row.name: row.bytes for row in found.layers if row.net == shown}
        try:
            from caffe_batch.reporting.net_layout import drawing
            from caffe_batch.reporting.net_picture import write_net_picture

            name = self.model.recipe.train.message.name or file.stem
            write_net_picture(drawing(net, sizes), file, title=f"{name}, {phase.upper()}")
        except ImportError as error:
            raise InputError(
                "the picture needs matplotlib", hint="pip install 'caffe-batch[plot]'"
            ) from error
        return file

    def _first_test(self) -> tuple[Net, Prediction]:
        """The first test net, and the prediction that contains its layers.

        Raises:
            InputError: There is none.
        """
        if self.tests:
            return self.tests[0], self
        recipe = with_its_test(self.model.recipe)
        if not recipe.tests:
            raise InputError(
                [Option("phase", "test"), ": the files have no test net"],
                hint="Leave it out to draw the train net.",
            )
        model = CaffeMemory(
            recipe, self.model.sources, self.mode, allow_unknown=self.model.allow_unknown
        )
        tests = model.test_nets(self.batch_size)
        return tests[0], model.of(self.train, tests)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch memory``."""
        from caffe_batch.reporting.memory_table import memory_json

        fork = self.model.recipe.fork
        found = memory_json(self.train, self.tests, self)
        skipped = [each.json() for each in self.skipped_fields]
        return {**found, "fork": fork.json() if fork else None, "skipped_fields": skipped}

    def __repr__(self) -> str:
        bound = "at least " if self.unknown_layers else "at most " if self.uncertain_bytes else ""
        place = "GPU" if self.mode == "gpu" else "host"
        return (
            f"<Memory batch_size {self.batch_size}: {bound}{format_size(self.peak_bytes)} of "
            f"{place} memory>"
        )

    def _repr_html_(self) -> str:
        from caffe_batch.reporting.notebook import memory_html

        return memory_html(self, repr(self).strip("<>"))


def memory(
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
    mode: Mode = "gpu",
    engine: str = engines.DEFAULT,
    build: BuildName = "caffe",
    half: bool = False,
    gpus: int = 1,
    progress: Progress = no_progress,
) -> Memory:
    """Predict the memory that a net needs when Caffe trains it.

    Without a solver, plain SGD without a test net is assumed.

    >>> import caffe_batch as cb
    >>> found = cb.memory("caffenet", batch_size=64, input_shape={"data": (3, 256, 256)})
    >>> found
    <Memory batch_size 64: 1.37 GiB of GPU memory>
    >>> found.peak_bytes
    1468277096
    >>> max(found.layers, key=lambda layer: layer.bytes).name
    'fc6'

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
        batch_size: TRAIN batch size; the file's own if None.
        mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory in Caffe's CPU mode.
        engine: The engine that trains.
        build: The build of Caffe: without cuDNN (exact), ``"cudnn"`` (bounds), ``"nvcaffe"`` (an
            estimate).
        half: NVCaffe in half precision.
        gpus: GPUs that train together; the prediction is for each of them.
        progress: Called while the memory of PyTorch is counted, with ``"memory"``, how many
            counts are done and how many there are.

    Raises:
        InputError: A file can't be read, Caffe would refuse the net, or its data layers disagree
            on the batch size.
    """
    files = RecipeFiles(
        net,
        solver,
        input_shape,
        allow_unknown=allow_unknown,
        allow_unknown_fields=allow_unknown_fields,
        rules=rules,
        batch_size=whole("batch_size", batch_size),
        fork=fork,
        hints=TypeHints.of(several(treat_as), several(same_shape)),
        run_python_layers=run_python_layers,
        data=data,
        engine=engine,
    )
    recipe, sources = files.recipe, files.sources
    with noted(recipe.notes):
        model = engines.find(engine).memory_model(
            recipe, sources, mode,
            allow_unknown=files.allow_unknown, build=choice("build", build, Build), gpus=gpus,
            half=half, count=counting(engine, progress),
        )  # fmt: skip
        size = whole("batch_size", batch_size)
        train, tests = model.train_net(size), model.test_nets(size)
        found = model.of(train, tests)
        layers = [node.layer for node in train.nodes]
        facts = {field.name: getattr(found, field.name) for field in fields(found)}
        return Memory(
            **facts,
            files=files,
            model=model,
            train=train,
            tests=tests,
            batch_size=batch_size_of(layers),
        )
