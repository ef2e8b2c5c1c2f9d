"""What a solver adds to the net's memory.

Source: sgd_solver.cpp and the solvers beside it. Every type creates three blobs per parameter
(history, update, temp), and AdaDelta and Adam a second history; only the sides that an update
touches cost memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.layers.base import Mode

#: How many blobs of each parameter's size the update of each type touches, by mode. The GPU kernels
#: are fused and read only the diff and the history.
STATE_BLOBS: dict[str, dict[Mode, int]] = {
    "SGD": {"gpu": 1, "cpu": 1},
    "Nesterov": {"gpu": 1, "cpu": 2},
    "AdaGrad": {"gpu": 1, "cpu": 2},
    "RMSProp": {"gpu": 1, "cpu": 2},
    "AdaDelta": {"gpu": 2, "cpu": 4},
    "Adam": {"gpu": 2, "cpu": 3},
}

#: Types whose CPU update already uses temp_, so that L1 decay adds nothing.
_CPU_TEMP = {"AdaDelta", "Adam"}


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """The settings of a solver that decide its memory.

    Attributes:
        type: The solver's type name (``"SGD"``).
        weight_decay: As in the solver; 0 touches nothing.
        regularization_type: ``"L1"`` or ``"L2"``.
        test_initialization: Whether the tests run before the first update.
        test_interval: Updates between tests; 0 for no tests.
    """

    type: str = "SGD"
    weight_decay: float = 0.0
    regularization_type: str = "L2"
    test_initialization: bool = True
    test_interval: int = 0

    def __post_init__(self) -> None:
        if self.type not in STATE_BLOBS:
            raise InputError(
                f"solver type {self.type!r} is not one of Caffe's",
                hint=did_you_mean(self.type, list(STATE_BLOBS))
                or f"The types are {', '.join(STATE_BLOBS)}.",
            )

    def decays(self, decay_mult: float | None) -> bool:
        """Whether a parameter with this decay_mult (None means 1) is regularised at all."""
        return self.weight_decay != 0 and decay_mult != 0

    def state_blobs(self, decay_mult: float | None, mode: Mode) -> int:
        """Blobs of solver state for one parameter, each as large as the parameter."""
        blobs = STATE_BLOBS[self.type][mode]
        # L1 decay needs the sign of the weights, in temp_.
        if self.regularization_type == "L1" and self.decays(decay_mult):
            blobs += not (mode == "cpu" and self.type in _CPU_TEMP)
        return blobs
