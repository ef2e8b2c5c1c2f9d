"""A net at the size of a micro-batch beside the same net at the size of the whole batch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net.blob_memory import BlobMemory
from caffe_batch.net.graph import Net, Node
from caffe_batch.net.samples import Rows, SampleFlow, Samples, Summed, follow, unfollowed
from caffe_batch.planning.edits.changes import Change
from caffe_batch.solver.updates import passes


@dataclass(frozen=True)
class BothSizes:
    """One split of the effective batch, with the net of one pass and that of the whole batch.

    Attributes:
        model: The recipe's model, with the recipe's own batch size.
        batch_size: As it will be in the files (NVCaffe: for all GPUs together).
        iter_size: Passes accumulated into one update.
        gpus: GPUs that share each update.
        own_gpus: GPUs that share each update of the files as they are.
        summed_iter: Passes that losses which are sums are summed over; iter_size if None. If the
            batch grows, that of the first stage.
    """

    model: MemoryModel
    batch_size: int
    iter_size: int
    gpus: int
    own_gpus: int = 1
    summed_iter: int | None = None

    @property
    def own_iter(self) -> int:
        """Passes accumulated into one update of the files as they are."""
        return passes(self.model.recipe.solver)

    @property
    def own_parts(self) -> int:
        """Passes, on all GPUs, that make up one update of the files as they are."""
        return self.own_iter * self.own_gpus

    @property
    def parts(self) -> int:
        """Passes, on all GPUs, that make up one update."""
        return self.iter_size * self.gpus

    @property
    def per_gpu(self) -> int:
        """Samples of one pass on one GPU."""
        return self.batch_size // self.gpus if self.model.divides_batch else self.batch_size

    @cached_property
    def small(self) -> Net:
        """The net of one pass on one GPU."""
        return self._alone.train_net(self.per_gpu)

    @cached_property
    def flows(self) -> tuple[SampleFlow, ...]:
        """What happens to the samples, layer by layer."""
        if self.only_size is not None:
            return unfollowed(self.small)
        return follow(self.small, self._whole[0], self._whole[1])

    @cached_property
    def only_size(self) -> ShapeError | None:
        """Why Caffe builds the net at no other size than that of one pass; None if it does."""
        try:
            assert self._whole  # noqa: S101  # built
        except ShapeError as error:
            return error
        return None

    @cached_property
    def blob_memory(self) -> BlobMemory:
        """Which blobs of the small net share memory."""
        return BlobMemory(self.small)

    @property
    def summed_parts(self) -> int:
        """Passes, on all GPUs, over which a loss that is a sum is summed."""
        return (self.summed_iter or self.iter_size) * self.gpus

    @property
    def more_parts(self) -> Fraction:
        """Passes that such a loss is summed over, for each pass in the files as they are."""
        return Fraction(self.summed_parts, self.own_parts)

    def is_sum(self, samples: Samples) -> bool:
        """Whether such a loss grows with the batch: each of its elements counts."""
        summed = isinstance(samples, Summed) and samples.factor == self._whole[1]
        return summed or isinstance(samples, Rows)

    def change(
        self, node: Node, path: tuple[str | int, ...], before: Any, after: Any, reason: str
    ) -> Change:
        """A change in one of the file's layers."""
        index = self._written[node.layer.name, node.layer.type][0]
        return Change("net", path, before, after, reason, index, node.layer.name)

    def written(self, node: Node) -> Node:
        """The layer as written in the file: for an inserted Split, the one whose top it splits."""
        if (node.layer.name, node.layer.type) in self._written:
            return node
        return next(
            maker for maker in reversed(self.small.nodes)
            if maker is not node and node.bottoms[0] in maker.tops
        )  # fmt: skip

    @cached_property
    def _alone(self) -> MemoryModel:
        return self.model if self.gpus == 1 else self.model.on_one_gpu()

    @cached_property
    def _whole(self) -> tuple[Net, int]:
        """The net of the whole batch, and how many passes it stands for.

        If Caffe can't build that (a blob over its limit), or one pass is the whole batch, two
        passes show the same.
        """
        if self.parts > 1:
            with suppress(ShapeError):
                return self._alone.train_net(self.per_gpu * self.parts), self.parts
        return self._alone.train_net(self.per_gpu * 2), 2

    def hands_weight_on(self, node: Node) -> bool:
        """Whether a Split has taken over its loss_weight (insert_splits.cpp).

        A loss then seems to have the default weight 1, but the Split rewrites its top's diff.
        """
        known = self._written.get((node.layer.name, node.layer.type))
        return known is not None and known[1] != node.layer.loss_weights

    @cached_property
    def _written(self) -> dict[tuple[str, str], tuple[int, tuple[float, ...]]]:
        """Index in the file and loss weights of each layer, by name and type."""
        return {
            (layer.name, layer.type): (index, tuple(layer.loss_weight))
            for index, layer in self.model.recipe.train.selected()
        }
