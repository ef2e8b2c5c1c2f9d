"""What the rest of the program may ask of whatever trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, MemoryModel
from caffe_batch.net import Recipe, Sources


class Engine(ABC):
    """What trains.

    Attributes:
        name: As plan.json and ``--engine`` spell it.
        title: As sentences for people call it.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def memory_model(
        self,
        recipe: Recipe,
        sources: Sources,
        mode: Mode,
        *,
        allow_unknown: bool = False,
        build: Build = Build.CAFFE,
        gpus: int = 1,
        half: bool = False,
    ) -> MemoryModel:
        """The model that predicts the memory of a training with this engine.

        Args:
            recipe: The solver and its nets.
            sources: Where data is found, and the shapes that the user gave.
            mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
            allow_unknown: Let layers without a rule pass; the totals are then lower bounds.
            build: The build of Caffe; engines that aren't Caffe have none but ``Build.CAFFE``.
            gpus: GPUs that train together; the memory is that of each of them.
            half: Whether the training works in half precision.

        Raises:
            InputError: No such training exists.
        """
