"""Where a training computes: on the CPU, or on one GPU of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

_GPU = re.compile(r"GPU (\d+)", re.ASCII)


@dataclass(frozen=True)
class Device:
    """The CPU or a GPU. ``str`` gives the spelling of job.json, and :meth:`parse` reads it.

    >>> str(Device(0)), str(Device.CPU)
    ('GPU 0', 'CPU')
    >>> Device.parse("GPU 12").gpu
    12

    Attributes:
        gpu: The GPU's number as Caffe counts them; None for the CPU.
    """

    gpu: int | None

    CPU: ClassVar[Device]

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.gpu is None

    def __str__(self) -> str:
        return "CPU" if self.gpu is None else f"GPU {self.gpu}"

    @classmethod
    def parse(cls, text: str) -> Device:
        """The device that ``str`` has written.

        Raises:
            ValueError: The text names none.
        """
        if text == "CPU":
            return cls.CPU
        match = _GPU.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a device: expected 'CPU' or 'GPU 0'")
        return cls(int(match[1]))


Device.CPU = Device(None)
