"""Reads a data layer's batches ahead of the training, and makes tensors of them.

How far a layer has come is counted in samples (as data_position.py counts): with the seed of
Caffe's generator that says everything, also which crops come next, because every sample takes the
same number of random numbers. So a position can be reached without reading what lies before it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any

import torch

from caffe_batch.engines.torch.data.transform import Array, Cut, Transform

#: How often a thread looks whether it should end, in seconds.
_LOOK_S = 0.1

#: What a source's state consists of.
State = Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """What a source reads for one pass.

    Attributes:
        tops: The values of each top: bytes or float32.
        cuts: Where the samples of the first top were cut out of their records.
    """

    tops: tuple[Array, ...]
    cuts: tuple[Cut, ...] = ()


class Source(ABC):
    """The records of a data layer, from the first one on, again and again.

    Attributes:
        batch_size: Samples of a batch.
        transform: What is done to the first top of a batch; None for nothing.
        ahead: Batches that may be read ahead; 0 where the order of reading matters to others.
        rank, ranks: Which of several ranks reads, and how many share the records.
    """

    batch_size: int
    transform: Transform | None = None
    ahead: int = 0
    rank: int = 0
    ranks: int = 1

    def share_out(self, rank: int, ranks: int) -> None:
        """Read only every record r, r + ranks, r + 2 * ranks, ..., as Caffe's ``Skip`` does.

        The random numbers of the records between are skipped, so that each record is cropped and
        mirrored as a single process would. (In Caffe each GPU has a seed of its own.)

        Args:
            rank: r.
            ranks: How many ranks there are.
        """
        self.rank, self.ranks = rank, ranks
        if self.transform is not None:
            self.transform.before, self.transform.after = rank, ranks - 1 - rank

    @abstractmethod
    def read(self) -> Batch:
        """The next batch.

        Raises:
            InputError: A record can't be read.
        """

    @abstractmethod
    def skip(self, samples: int) -> None:
        """Go on by some samples without reading them, as if all ranks together had read them."""

    def state(self) -> State:
        """What the number of samples and the seed don't say of where it is; mostly nothing."""
        return {}

    def restore(self, state: State) -> None:
        """Go where another source of the layer was, after the same number of samples."""
        return

    def close(self) -> None:
        """Release what it holds."""
        return


class Feed:
    """A data layer at work: a thread reads its batches and keeps a few of them ready.

    Args:
        name: The layer's, for messages.
        source: What it reads.
        device: Where the tensors should be.

    Attributes:
        samples: How many the training has had, on all ranks.
    """

    def __init__(self, name: str, source: Source, device: torch.device) -> None:
        self.name, self.samples = name, 0
        self._source, self._device = source, device
        self._ready: Queue[tuple[Batch, tuple[torch.Tensor, ...]] | BaseException] = Queue(
            max(1, source.ahead)
        )
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def go_to(self, samples: int, state: State | None = None) -> None:
        """Go on from a number of samples, before anything is read.

        Args:
            samples: That the training has had.
            state: What :meth:`state` gave then; None if it isn't known.
        """
        if state:
            self._source.restore(state)
        else:
            self._source.skip(samples)
        self.samples = samples

    def state(self) -> State:
        """What has to be kept beside :attr:`samples`."""
        return self._source.state()

    def next(self) -> tuple[torch.Tensor, ...]:
        """The tops of the next pass, in float32.

        Raises:
            InputError: A record can't be read.
            MemoryError: There is no room for the thread that reads.
        """
        if not self._source.ahead:
            batch = self._source.read()
            tops = self._tensors(batch)
        else:
            if self._thread is None:
                self._thread = self._started()
            found = self._ready.get()
            if isinstance(found, BaseException):
                raise found
            batch, tops = found
        self.samples += self._source.batch_size * self._source.ranks
        if self._device.type != "cpu":
            tops = tuple(top.to(self._device, non_blocking=True) for top in tops)
        transform = self._source.transform
        first = transform.shifted(tops[0], batch.cuts) if transform else tops[0]
        return (first, *tops[1:])

    def close(self) -> None:
        """End the thread and release the source."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self._source.close()

    def _started(self) -> threading.Thread:
        """The thread that reads; kept only once it runs, for no other can be awaited."""
        thread = threading.Thread(target=self._read_on, daemon=True, name=self.name)
        try:
            thread.start()
        except RuntimeError as error:  # its stack found no room: Python has no name for that
            raise MemoryError(f"layer {self.name!r}: {error}") from error
        return thread

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        tensors = tuple(torch.from_numpy(top) for top in batch.tops)
        return (
            tensors if self._device.type == "cpu" else tuple(each.pin_memory() for each in tensors)
        )

    def _read_on(self) -> None:
        """What the thread does."""
        while not self._ending.is_set():
            found: tuple[Batch, tuple[torch.Tensor, ...]] | BaseException
            try:
                batch = self._source.read()
                found = batch, self._tensors(batch)
            except BaseException as error:  # raised where the batch is asked for
                found = error
            while not self._ending.is_set():
                try:
                    self._ready.put(found, timeout=_LOOK_S)
                except Full:
                    continue
                break
            if isinstance(found, BaseException):
                return
