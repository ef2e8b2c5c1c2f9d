"""What planning asks of a memory model, for any engine: bytes at any batch size, and the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from caffe_batch.layers.base import Layer, Mode
from caffe_batch.memory.build import Build
from caffe_batch.memory.ledger import LayerBytes, Part, Terms
from caffe_batch.net.graph import Net
from caffe_batch.net.recipe import Recipe
from caffe_batch.net.sources import Sources

Peak = int | str
"""Bytes, or the reason, in words, why the net is refused at this batch size."""


@dataclass(frozen=True)
class Prediction:
    """The memory of a training run, in bytes that Caffe itself requests.

    Attributes:
        mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
        after_build_bytes: The most that is allocated until the solver is constructed.
        after_two_updates_bytes: The most that is allocated until two updates are done, including
            the tests that run before or between them.
        peak_bytes: The most that is ever allocated: two updates and one test.
        parts: Bytes by :class:`Part`; they sum to the peak.
        layers: The same bytes by layer, the train net first.
        unknown_layers: Layers without a rule, and layers that keep a whole source in memory
            (HDF5Data in CPU mode) which wasn't read; if there are any, the peak is a lower bound.
        rounding_bytes: What cudaMalloc adds to the peak by rounding each request up.
        uncertain_bytes: How much of the totals may turn out not to be allocated: with cuDNN the
            workspaces, with NVCaffe whatever it can do without. 0 for Caffe's own kernels.
        build: The build of Caffe; for NVCaffe all figures are estimates.
        engine: Name of the engine whose memory it is.
        terms: The peak as a sum of terms in the batch size; None where it isn't a plain sum.
        upper_bound_layers: Layers whose memory depends on the data, and is counted at its most.
    """

    mode: Mode
    after_build_bytes: int
    after_two_updates_bytes: int
    peak_bytes: int
    parts: dict[Part, int]
    layers: tuple[LayerBytes, ...]
    unknown_layers: tuple[str, ...]
    rounding_bytes: int = 0
    uncertain_bytes: int = 0
    build: Build = Build.CAFFE
    engine: str = "caffe"
    terms: Terms | None = None
    upper_bound_layers: tuple[str, ...] = ()

    @property
    def lower_peak_bytes(self) -> int:
        """The lower bound of the peak; the peak itself if nothing is uncertain."""
        return self.peak_bytes - self.uncertain_bytes

    @property
    def allocated_bytes(self) -> int:
        """What the peak occupies on the device, rounding included."""
        return self.peak_bytes + self.rounding_bytes


class MemoryModel(Protocol):
    """The memory of one recipe, at any batch size.

    Attributes:
        engine: Name of the engine whose memory this is.
        recipe: The solver and its nets.
        sources: Where data is found, and the shapes that the user gave.
        mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
        allow_unknown: Whether layers without a rule are accepted; the totals are then lower bounds.
        build: The build of Caffe; for other engines, Caffe's own.
        gpus: GPUs that train together; the memory is that of each of them.
        half: Whether the training works in half precision.
        train_layers: The TRAIN layers with the batch size of the file.
        test_layers: The layers of each test net, with the batch sizes of the file or the requested
            ones.
        batch_size: The TRAIN batch size of the file.
        batch_unit: Every TRAIN batch size is a multiple of this.
        has_loss: Whether any TRAIN layer is a loss.
        divides_batch: Whether the batch size is for all GPUs together, not for each.
        remarks: What a plan should say about these figures, a sentence or two each.
    """

    @property
    def engine(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def sources(self) -> Sources: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def allow_unknown(self) -> bool: ...
    @property
    def build(self) -> Build: ...
    @property
    def gpus(self) -> int: ...
    @property
    def half(self) -> bool: ...
    @property
    def train_layers(self) -> tuple[Layer, ...]: ...
    @property
    def test_layers(self) -> tuple[tuple[Layer, ...], ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def batch_unit(self) -> int: ...
    @property
    def has_loss(self) -> bool: ...
    @property
    def divides_batch(self) -> bool: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...

    def at(self, size: int | None = None) -> Prediction:
        """The memory at a TRAIN batch size (the file's own, if None).

        Raises:
            ShapeError: The net is refused at this size.
        """

    def peaks(self, sizes: Sequence[int]) -> dict[int, Peak]:
        """The predicted peak at each of these TRAIN batch sizes."""

    def train_net(self, size: int | None = None) -> Net:
        """The train net at a batch size (the file's own, if None), as it is on each GPU."""

    def test_nets(self, size: int | None = None) -> tuple[Net, ...]:
        """The test nets when the TRAIN batch size is ``size``."""

    def of(self, train: Net, tests: Sequence[Net]) -> Prediction:
        """The memory of training exactly these nets with the recipe's solver."""

    def with_test_batches(self, sizes: tuple[int | None, ...]) -> MemoryModel:
        """The same model with other batch sizes for the test nets; None keeps the file's own."""

    def with_recipe(self, recipe: Recipe) -> MemoryModel:
        """The same kind of model for other files, with their own batch sizes."""

    def on_one_gpu(self) -> MemoryModel:
        """The model of the same files for one GPU."""

    def on_the_host(self) -> MemoryModel:
        """The model of the same files in CPU mode."""
