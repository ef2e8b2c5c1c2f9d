"""What a rank shares with the others: gradients, losses, requests; and what it is if it is alone.

There are two groups over gloo: in one a rank that doesn't answer for a short time is lost, in the
other everybody waits while the first rank tests or writes a snapshot. Gradients go over NCCL on
GPUs, and over the first group on the CPU.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]  # documented so

from caffe_batch.errors import CaffeBatchError, InputError

#: How long the others wait for what one rank does alone: a test, a snapshot. The supervisor
#: notices much sooner that such a rank is silent.
PATIENT = timedelta(hours=6)

#: Gradients are summed in pieces of about this size, so that their copies stay small.
PIECE_BYTES = 32 * 2**20


class RankLostError(CaffeBatchError):
    """Another rank has ended, or doesn't answer."""


class Word(IntEnum):
    """What the first rank tells the others, who wait for it."""

    GO_ON = 0
    SNAPSHOT = 1
    STOP = 2


class Ranks(ABC):
    """The ranks of a training.

    Attributes:
        rank: The number of this one.
        size: How many there are.
        waited_s: Seconds that this one has spent with the others: waiting, and exchanging.
    """

    rank: int
    size: int
    waited_s: float = 0.0

    @property
    def leads(self) -> bool:
        """Whether it is the first: that one tests, takes snapshots, reports."""
        return self.rank == 0

    @property
    @abstractmethod
    def speaks(self) -> bool:
        """Whether it is the first of its machine: that one says why all of them end."""

    @abstractmethod
    def average(self, values: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all ranks."""

    @abstractmethod
    def add_up(self, values: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    @abstractmethod
    def mean(self, value: float) -> float:
        """The mean of a number over all ranks: the same one, to the bit, on each."""

    @abstractmethod
    def mean_and_each(self, value: float, own: float) -> tuple[float, list[float]]:
        """The same, and a number that each has for itself, by rank."""

    @abstractmethod
    def agree(self, *, snapshot: bool, stop: bool) -> tuple[bool, bool]:
        """What is to be done now, by all ranks, if these are the requests that this one has had."""

    @abstractmethod
    def announce(self, word: Word) -> None:
        """Tell the others, who :meth:`await_word`; only the first rank does."""

    @abstractmethod
    def await_word(self) -> Word:
        """What the first rank says, however long that takes."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What each rank has, for the first one; an empty list for the others."""

    @abstractmethod
    def given(self, value: Any) -> Any:
        """What the first rank has."""

    def close(self) -> None:
        """Leave the group."""
        return


class Alone(Ranks):
    """One process that trains by itself."""

    rank, size, speaks = 0, 1, True

    def average(self, values: Sequence[Tensor]) -> None:
        return

    def add_up(self, values: Tensor) -> None:
        return

    def mean(self, value: float) -> float:
        return value

    def mean_and_each(self, value: float, own: float) -> tuple[float, list[float]]:
        return value, [own]

    def agree(self, *, snapshot: bool, stop: bool) -> tuple[bool, bool]:
        return snapshot, stop

    def announce(self, word: Word) -> None:
        return

    def await_word(self) -> Word:
        raise AssertionError("the only rank is the first one")

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def given(self, value: Any) -> Any:
        return value


class Group(Ranks):
    """One of several ranks.

    Args:
        place: Its place, as ``launch.py`` gives it.
        device: Where it computes.

    Raises:
        RankLostError: The others didn't come.
    """

    def __init__(self, place: Mapping[str, Any], device: torch.device) -> None:
        self.waited_s = 0.0
        self.rank, self.size = place["rank"], place["ranks"]
        self._speaks: bool = place["local_rank"] == 0
        self._device = device
        brief = timedelta(seconds=place["patience_s"])
        with _together("the ranks didn't come together"):
            store = _store(place)
            store.set(f"rank {self.rank}", "is here")
            # Setting up a group would wait for as long as the group does.
            everyone = [f"rank {rank}" for rank in range(self.size)]
            store.wait(everyone, timedelta(seconds=place["join_s"]))
            dist.init_process_group(
                "gloo", store=store, rank=self.rank, world_size=self.size, timeout=brief
            )
            self._brief: Any = dist.group.WORLD
            self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENT)
            self._fast: Any = (
                self._brief
                if device.type == "cpu"
                else dist.new_group(backend="nccl", timeout=brief, device_id=device)
            )

    @property
    def speaks(self) -> bool:
        return self._speaks

    def average(self, values: Sequence[Tensor]) -> None:
        with self._waiting("gradients couldn't be averaged"), torch.no_grad():
            for piece in pieces(values, PIECE_BYTES):
                flat = torch.cat([value.reshape(-1) for value in piece])
                dist.all_reduce(flat, group=self._fast)
                flat /= self.size
                means = torch.split(flat, [value.numel() for value in piece])
                for value, mean in zip(piece, means, strict=True):
                    value.copy_(mean.view_as(value))

    def add_up(self, values: Tensor) -> None:
        with self._waiting("what the ranks count together couldn't be added up"), torch.no_grad():
            dist.all_reduce(values, group=self._fast)

    def mean(self, value: float) -> float:
        return self._summed([value])[0] / self.size

    def mean_and_each(self, value: float, own: float) -> tuple[float, list[float]]:
        place = [own if rank == self.rank else 0.0 for rank in range(self.size)]
        total, *each = self._summed([value, *place])
        return total / self.size, each

    def agree(self, *, snapshot: bool, stop: bool) -> tuple[bool, bool]:
        asked = [float(snapshot and self._speaks), float(stop and self._speaks)]
        snapshots, stops = self._summed(asked)
        return snapshots > 0, stops > 0

    def _summed(self, values: Sequence[float]) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64)
        with self._waiting("a rank doesn't answer"):
            dist.all_reduce(numbers, group=self._brief)
        found: list[float] = numbers.tolist()
        return found

    def announce(self, word: Word) -> None:
        self._broadcast(int(word))

    def await_word(self) -> Word:
        return Word(self._broadcast(0))

    def _broadcast(self, number: int) -> int:
        held = torch.tensor([number])
        with self._waiting("the first rank is lost"):
            dist.broadcast(held, 0, group=self._patient)
        return int(held.item())

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size if self.leads else []
        with self._waiting("a rank doesn't answer"):
            dist.gather_object(value, found or None, group=self._patient)
        return found

    def given(self, value: Any) -> Any:
        held = [value]
        with self._waiting("the first rank is lost"):
            dist.broadcast_object_list(held, 0, group=self._patient)
        return held[0]

    def close(self) -> None:
        dist.destroy_process_group()

    @contextmanager
    def _waiting(self, problem: str) -> Iterator[None]:
        """As :func:`_together`, and the time counts as waited."""
        begun = time.monotonic()
        with _together(problem):
            yield
        self.waited_s += time.monotonic() - begun


def _store(place: Mapping[str, Any]) -> Any:
    """Where the ranks find each other: in a file, or on several machines at the first's port."""
    patience = timedelta(seconds=place["join_s"])
    if place["file"]:
        store: Any = FileStore(place["file"], place["ranks"])
        store.set_timeout(patience)
        return store
    return TCPStore(
        place["address"],
        place["port"],
        place["ranks"],
        is_master=place["rank"] == 0,
        timeout=patience,
        wait_for_workers=False,
    )


def join(settings: Mapping[str, Any], device: torch.device) -> Ranks:
    """The ranks that a worker belongs to.

    Raises:
        RankLostError: The others didn't come.
    """
    place = settings.get("rank")
    return Alone() if place is None else Group(place, device)


def check_alike(ranks: Ranks, facts: Mapping[str, str]) -> None:
    """Refuse ranks that would train something else than the first one.

    Args:
        ranks: All of them.
        facts: What has to be the same on all of them, by what it is called.

    Raises:
        InputError: Something differs; the rank and what it has are named.
        RankLostError: The same, where another rank says so.
    """
    every = ranks.gather(dict(facts))
    problem = next(filter(None, (_other(each, every[0], n) for n, each in enumerate(every))), "")
    _refuse_together(ranks, problem, "All ranks need the same job, the same torch and data.")


@contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """What each rank does by itself: if one can't, none goes on, and all know which.

    Raises:
        CaffeBatchError, OSError: This rank can't, and says so for its machine.
        InputError: Another one can't, and this one says so for its machine.
        RankLostError: One can't, and another rank says so.
    """
    own: CaffeBatchError | OSError | None = None
    try:
        yield
    except (CaffeBatchError, OSError) as error:
        own = error
    if own and ranks.size == 1:
        raise own
    every = ranks.gather(_sentence(own))
    problem = next((f"rank {n} can't begin: {each}" for n, each in enumerate(every) if each), "")
    try:
        _refuse_together(ranks, problem, "Each machine needs the files that the nets name.")
    except InputError:
        if own:
            raise own from None
        raise


def _sentence(error: CaffeBatchError | OSError | None) -> str:
    if isinstance(error, CaffeBatchError):
        return error.message
    return "" if error is None else f"{error.filename}: {error.strerror}"


def _refuse_together(ranks: Ranks, problem: str, hint: str) -> None:
    """End all ranks if the first one has a problem to tell; one on each machine says it."""
    problem = ranks.given(problem)
    if problem and ranks.speaks:
        raise InputError(problem, hint=hint)
    if problem:
        raise RankLostError(problem)


def _other(facts: Mapping[str, str], first: Mapping[str, str], rank: int) -> str:
    return "; ".join(
        f"rank {rank} has {name} {facts[name]}, and rank 0 {first[name]}"
        for name in first
        if facts[name] != first[name]
    )


def pieces(values: Sequence[Tensor], most_bytes: int) -> Iterator[list[Tensor]]:
    """Tensors of one type in groups of about ``most_bytes``, in their order.

    One that is larger is a group of its own.
    """
    piece: list[Tensor] = []
    room = most_bytes
    for value in values:
        if piece and (value.nbytes > room or value.dtype != piece[0].dtype):
            yield piece
            piece, room = [], most_bytes
        piece.append(value)
        room -= value.nbytes
    if piece:
        yield piece


@contextmanager
def _together(problem: str) -> Iterator[None]:
    """What torch raises where another rank is lost, as a RankLostError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:  # its own types differ between versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RankLostError(f"{problem}: {first}") from error
