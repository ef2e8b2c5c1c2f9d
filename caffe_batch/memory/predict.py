"""The memory of a recipe in Caffe at a batch size: the entry point for commands and planners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from caffe_batch.layers.base import Layer, Mode
from caffe_batch.memory.base import Peak, Prediction
from caffe_batch.memory.build import Build, check_build
from caffe_batch.memory.curve import peak_curve
from caffe_batch.memory.ledger import Terms
from caffe_batch.memory.model import predict_nets
from caffe_batch.memory.solver_state import SolverSettings
from caffe_batch.net.batch import (
    batch_size,
    batch_unit,
    reads_batches,
    with_batch_size,
    with_divided_batches,
)
from caffe_batch.net.graph import Net, rule_of
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class CaffeMemory:
    """The memory of one recipe in Caffe: a :class:`~caffe_batch.memory.base.MemoryModel`.

    Attributes:
        recipe: The solver and its nets.
        sources: Where data is found, and the shapes that the user gave.
        mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
        allow_unknown: Whether layers without a rule are accepted; the totals are then lower bounds.
        build: The build of Caffe.
        gpus: GPUs that train together; the memory is that of each of them.
        half: Whether NVCaffe works in half precision.
        test_batches: Batch size of each test net, None for the file's own; empty if all are.
    """

    #: Name of the engine whose memory this is.
    engine: ClassVar[str] = "caffe"
    #: What a plan should say about its figures.
    remarks: ClassVar[tuple[str, ...]] = ()

    recipe: Recipe
    sources: Sources
    mode: Mode = "gpu"
    allow_unknown: bool = False
    build: Build = Build.CAFFE
    gpus: int = 1
    half: bool = False
    test_batches: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        check_build(self.mode, self.build, self.gpus, half=self.half)

    @cached_property
    def train_layers(self) -> tuple[Layer, ...]:
        """The TRAIN layers with the batch size of the file."""
        return self.recipe.train.layers(self.sources, allow_unknown=self.allow_unknown)

    @cached_property
    def test_layers(self) -> tuple[tuple[Layer, ...], ...]:
        """The layers of each test net, with the batch sizes of the file or the requested ones."""
        sizes = self.test_batches or (None,) * len(self.recipe.tests)
        read = [
            file.layers(self.sources, allow_unknown=self.allow_unknown)
            for file in self.recipe.tests
        ]
        return tuple(
            layers if size is None else with_batch_size(layers, size)
            for layers, size in zip(read, sizes, strict=True)
        )

    @property
    def batch_size(self) -> int:
        """The TRAIN batch size of the file."""
        return batch_size(self.train_layers)

    @property
    def batch_unit(self) -> int:
        """Every TRAIN batch size is a multiple of this."""
        return batch_unit(self.train_layers)

    def with_test_batches(self, sizes: tuple[int | None, ...]) -> CaffeMemory:
        """The same model with other batch sizes for the test nets."""
        other = replace(self, test_batches=sizes)
        alike = ("train_layers", "_split_layers", "_train_nets")
        shared = {name: getattr(self, name) for name in alike}
        vars(other).update(shared)  # what doesn't depend on the sizes isn't read again
        return other

    def with_recipe(self, recipe: Recipe) -> CaffeMemory:
        """The same kind of model for other files, with their own batch sizes."""
        return replace(self, recipe=recipe, test_batches=())

    def on_one_gpu(self) -> CaffeMemory:
        """The model of the same files for one GPU."""
        return self if self.gpus == 1 else replace(self, gpus=1)

    def on_the_host(self) -> CaffeMemory:
        """The model of the same files in CPU mode."""
        return replace(self, mode="cpu", build=Build.CAFFE, half=False)

    @property
    def has_loss(self) -> bool:
        """Whether any TRAIN layer is a loss: by its type, or by a loss_weight."""
        return any(
            any(layer.loss_weights) if layer.loss_weights else rule_of(layer).is_loss
            for layer in self.train_layers
        )

    @property
    def divides_batch(self) -> bool:
        """Whether the batch size is for all GPUs together, not for each.

        NVCaffe divides the batches that data layers read, but not those of literal shapes.
        """
        return self.build is Build.NVCAFFE and reads_batches(self.train_layers)

    def train_net(self, size: int | None = None) -> Net:
        """The train net at a batch size (the file's own, if None), as it is on each GPU."""
        if size not in self._train_nets:
            self._train_nets[size] = self._build_train_net(size)
        return self._train_nets[size]

    @cached_property
    def _train_nets(self) -> dict[int | None, Net]:
        return {}

    def _build_train_net(self, size: int | None) -> Net:
        layers = self.train_layers if size is None else with_batch_size(self.train_layers, size)
        pairs = zip(self.train_layers, self._on_each_gpu(layers), strict=True)
        resized = {id(old.settings): new.settings for old, new in pairs if new is not old}
        split = [
            replace(layer, settings=resized[id(layer.settings)])
            if id(layer.settings) in resized
            else layer
            for layer in self._split_layers
        ]
        return self.recipe.train.build(split, has_splits=True)

    @cached_property
    def _split_layers(self) -> list[Layer]:
        """The TRAIN layers and their Splits; they share the layers' settings objects."""
        return self.recipe.train.with_splits(self.train_layers)

    def test_nets(self, size: int | None = None) -> tuple[Net, ...]:
        """The test nets when the TRAIN batch size is ``size``.

        Their batch sizes are their own, except where both phases get samples through one layer.
        """
        return tuple(
            own
            if size is None or not shared
            else self._test_net(file, with_batch_size(layers, size))
            for own, shared, file, layers in zip(
                self._own_test_nets,
                self._shared_tests,
                self.recipe.tests,
                self.test_layers,
                strict=True,
            )
        )

    @cached_property
    def _shared_tests(self) -> tuple[bool, ...]:
        """Of each test net, whether it gets samples through a layer of the train net."""
        recipe = self.recipe
        trained = recipe.sample_layers(recipe.train, self.train_layers)
        pairs = zip(recipe.tests, self.test_layers, strict=True)
        return tuple(bool(recipe.sample_layers(*pair) & trained) for pair in pairs)

    @cached_property
    def _own_test_nets(self) -> tuple[Net, ...]:
        pairs = zip(self.recipe.tests, self.test_layers, strict=True)
        return tuple(self._test_net(file, layers) for file, layers in pairs)

    def _test_net(self, file: NetFile, layers: tuple[Layer, ...]) -> Net:
        return file.build(self._on_each_gpu(layers))

    def _on_each_gpu(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        divided = self.build is Build.NVCAFFE and self.gpus > 1
        return with_divided_batches(layers, self.gpus) if divided else layers

    def at(self, size: int | None = None) -> Prediction:
        """The memory at a TRAIN batch size (the file's own, if None)."""
        if size not in self._predictions:
            self._predictions[size] = self.of(self.train_net(size), self.test_nets(size))
        return self._predictions[size]

    @cached_property
    def _predictions(self) -> dict[int | None, Prediction]:
        return {}

    def peaks(self, sizes: Sequence[int]) -> dict[int, Peak]:
        """The predicted peak at each of these TRAIN batch sizes (see :func:`peak_curve`)."""
        if all(rule_of(layer).any_batch(layer.settings) for layer in self.train_layers):
            return peak_curve(self._peak, sizes)
        # Caffe may refuse any single size here, so each is predicted by itself.
        return {size: peak_curve(self._peak, [size])[size] for size in sizes}

    def _peak(self, size: int) -> Terms | int:
        prediction = self.at(size)
        return prediction.peak_bytes if prediction.terms is None else prediction.terms

    def of(self, train: Net, tests: Sequence[Net]) -> Prediction:
        """The memory of training exactly these nets with the recipe's solver."""
        return predict_nets(
            train,
            tests,
            solver_settings(self.recipe.solver),
            self.mode,
            build=self.build,
            gpus=self.gpus,
            half=self.half,
        )


def predict(
    net: str | Path,
    solver: str | Path | None = None,
    *,
    batch_size: int | None = None,
    mode: Mode = "gpu",
    sources: Sources | None = None,
    allow_unknown: bool = False,
    build: Build = Build.CAFFE,
    gpus: int = 1,
    half: bool = False,
) -> Prediction:
    """The memory of a net in training, in bytes that Caffe itself requests.

    Args:
        net: A net file, or a solver file whose nets are followed.
        solver: The solver to train ``net`` with; plain SGD without a test net if None.
        batch_size: TRAIN batch size; the file's own if None.
        mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
        sources: Where data is found; the working directory and beside the files if None.
        allow_unknown: Whether layers without a rule are accepted; the totals are then lower bounds.
        build: The build of Caffe; with ``Build.CUDNN`` the peak is an upper bound, with
            ``Build.NVCAFFE`` an estimate.
        gpus: GPUs that train together; the memory is that of each of them.
        half: Whether NVCaffe works in half precision.

    Raises:
        InputError: A file can't be read, or Caffe would refuse the net.
    """
    recipe = read_recipe(net, solver)
    sources = sources or Sources(recipe.directories)
    model = CaffeMemory(recipe, sources, mode, allow_unknown, build, gpus, half)
    return model.at(batch_size)


def solver_settings(solver: caffe_pb2.SolverParameter) -> SolverSettings:
    """The settings of a solver that decide its memory."""
    return SolverSettings(
        type=solver.type,
        weight_decay=solver.weight_decay,
        regularization_type=solver.regularization_type,
        test_initialization=solver.test_initialization,
        test_interval=solver.test_interval,
    )
