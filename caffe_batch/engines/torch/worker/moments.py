"""Where a training is beyond its weights: how far its data has been read, and its random numbers.

Caffe's snapshots don't hold that. It is kept in a file of its own beside the solverstate, so that a
training that goes on is, on the CPU, the one that was never interrupted, to the bit.
"""

from __future__ import annotations

import json
import os
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.engines.torch.worker.nets import FedNet

_FORMAT = 1


@dataclass(frozen=True)
class Moment:
    """A moment of a training.

    Attributes:
        facts: What JSON holds: the seed, and the samples of each data layer of each net.
        arrays: The states of generators, and of data layers that shuffle.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray[Any, Any]]


class Surroundings:
    """All that a moment is made of.

    Args:
        draws: Caffe's generator of the main thread.
        opener: What has opened the data layers.
        nets: The train net first.
        device: Where the training computes.
    """

    def __init__(
        self, draws: CaffeRandom, opener: Opener, nets: Sequence[FedNet], device: torch.device
    ) -> None:
        self._draws, self._opener, self._nets, self._device = draws, opener, nets, device

    def now(self) -> Moment:
        """The moment that it is."""
        samples, arrays = [], dict[str, np.ndarray[Any, Any]]()
        for number, net in enumerate(self._nets):
            samples.append([(feed.name, feed.samples) for feed in net.feeds])
            for index, feed in enumerate(net.feeds):
                for name, value in feed.state().items():
                    arrays[f"feed.{number}.{index}.{name}"] = np.asarray(value)
        arrays["caffe"] = self._draws.state
        arrays["libc"] = np.array(self._opener.libc.words, np.uint32)
        arrays["torch"] = torch.get_rng_state().numpy().copy()
        if self._device.type == "cuda":
            arrays["cuda"] = torch.cuda.get_rng_state(self._device).numpy().copy()
        numpy_state: Any = np.random.get_state(legacy=False)
        arrays["numpy"] = numpy_state["state"]["key"].copy()
        version, words, following = random.getstate()
        arrays["python"] = np.array(words, np.uint32)
        facts = {
            "format": _FORMAT,
            "seed": self._draws.seed,
            "samples": samples,
            "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
            "python": [version, following],
        }
        return Moment(facts, arrays)

    def return_to(self, moment: Moment) -> bool:
        """Go to a moment, before anything is read; returns whether it is one of these nets."""
        facts, arrays = moment.facts, moment.arrays
        names = [[feed.name for feed in net.feeds] for net in self._nets]
        if [[name for name, _ in each] for each in facts["samples"]] != names:
            return False
        for number, (net, each) in enumerate(zip(self._nets, facts["samples"], strict=True)):
            for index, (feed, (_, samples)) in enumerate(zip(net.feeds, each, strict=True)):
                start = f"feed.{number}.{index}."
                own = {
                    name[len(start) :]: arrays[name]
                    for name in arrays
                    if name[: len(start)] == start
                }
                feed.go_to(samples, own)
        self._draws.state = arrays["caffe"]
        self._opener.libc.words.extend(arrays["libc"].tolist())
        torch.set_rng_state(torch.from_numpy(arrays["torch"]))
        if self._device.type == "cuda" and "cuda" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda"]), self._device)
        position, has_gauss, gauss = facts["numpy"]
        np.random.set_state(("MT19937", arrays["numpy"], position, has_gauss, gauss))
        version, following = facts["python"]
        random.setstate((version, tuple(arrays["python"].tolist()), following))
        return True

    def skip(self, samples: Sequence[int]) -> None:
        """Go on to where each net has read this many samples, as far as that says where it is."""
        for net, number in zip(self._nets, samples, strict=True):
            for feed in net.feeds:
                feed.go_to(number)


def joined(moments: Sequence[Moment]) -> Moment:
    """The moment of all ranks, the first one's first: its own, and in it those of the others."""
    first, *others = moments
    arrays = dict(first.arrays)
    for rank, moment in enumerate(others, start=1):
        arrays |= {f"rank{rank}/{name}": value for name, value in moment.arrays.items()}
    return Moment({**first.facts, "ranks": [dict(each.facts) for each in others]}, arrays)


def of_rank(moment: Moment, rank: int, ranks: int) -> Moment | None:
    """The moment of one rank; None if there were other ranks than now."""
    others = moment.facts.get("ranks", [])
    if len(others) + 1 != ranks:
        return None
    start = f"rank{rank}/"
    own = {n.removeprefix(start): v for n, v in moment.arrays.items() if n.startswith(start)}
    return Moment(others[rank - 1], own) if rank else moment


def write_moment(snapshot: Snapshot, moment: Moment) -> None:
    """Write a moment beside a solverstate; the snapshot's weights exist already.

    Raises:
        OSError: It can't be written.
    """
    path, weights = snapshot.moment, _checksum(snapshot.weights)
    facts = json.dumps({**moment.facts, "update": snapshot.update, "weights": weights})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file, facts=np.frombuffer(facts.encode(), np.uint8), **dict[str, Any](moment.arrays)
            )
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_moment(snapshot: Snapshot) -> Moment | None:
    """The moment of a snapshot; None if there is none, or none of these weights."""
    try:
        with snapshot.moment.open("rb") as bytes_, np.load(bytes_, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        known = facts["format"], facts["update"], facts["weights"]
        if known != (_FORMAT, snapshot.update, _checksum(snapshot.weights)):
            return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return Moment(facts, arrays)


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            checksum = zlib.crc32(piece, checksum)
    return checksum
