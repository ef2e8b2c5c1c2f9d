"""A training as Caffe's solver runs it: updates, tests, snapshots, what is displayed.

Source: solver.cpp (Step, Solve, Test, Snapshot).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_batch.engines.caffe.inside.worker_log import WorkerLog
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.net import Output, Pass
from caffe_batch.engines.torch.ranks.group import Ranks, Word
from caffe_batch.engines.torch.snapshots import SolverState, write_state, write_weights
from caffe_batch.engines.torch.testing import score
from caffe_batch.engines.torch.update import Update
from caffe_batch.engines.torch.worker.micro_gradients import NoiseSampler
from caffe_batch.engines.torch.worker.moments import Moment, Surroundings, joined, write_moment
from caffe_batch.engines.torch.worker.nets import FedNet
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events, log, number
from caffe_batch.errors import CaffeBatchError
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.solver.testing import has_test_at
from caffe_batch.solver.updates import passes

#: About how often progress is reported, in seconds.
FLUSH_S = 0.2

#: Over how many updates it is measured how long each rank takes.
RECENT = 50


class Stop(Exception):  # noqa: N818  # it isn't an error
    """Leaves the training, on request; a snapshot is taken."""


class DivergedError(Exception):
    """The loss after the updates done so far has diverged, or (None) the weights have."""

    def __init__(self, loss: float | None) -> None:
        super().__init__(loss)
        self.loss = loss


class NotWrittenError(CaffeBatchError, OSError):
    """A snapshot that can't be written."""


class Rates:
    """The learning rate of one update after the other (sgd_solver.cpp, GetLearningRate).

    The multistep policy goes on from the number of drops that a snapshot has.

    Args:
        solver: The solver.

    Attributes:
        step: The drops so far, as a solverstate has them (``current_step``).
    """

    def __init__(self, solver: caffe_pb2.SolverParameter) -> None:
        self._solver, self.step = solver, 0

    def peek(self, done: int) -> float:
        """The rate of the update that follows ``done`` updates, in float32 as in Caffe."""
        if self._solver.lr_policy != "multistep":
            rate = learning_rate(self._solver, done)
        else:
            rate = self._solver.base_lr * self._solver.gamma ** self._step_at(done)
        with np.errstate(over="ignore"):
            return float(np.float32(rate))

    def next(self, done: int) -> float:
        """The same; that update is made now."""
        rate, self.step = self.peek(done), self._step_at(done)
        return rate

    def _step_at(self, done: int) -> int:
        solver = self._solver
        if solver.lr_policy == "step":
            return done // solver.stepsize
        if solver.lr_policy != "multistep" or self.step >= len(solver.stepvalue):
            return self.step
        return self.step + (done >= solver.stepvalue[self.step])


@dataclass(frozen=True)
class _Kept:
    """What a snapshot holds that a pass or a test changes: as it was when the update began."""

    moment: Moment
    statistics: Sequence[Tensor]


@dataclass
class Trained:
    """What a training is made of.

    Attributes:
        solver: The solver; its snapshot_prefix leads to the job's snapshots.
        train: The train net.
        tests: The test nets.
        update: The solver's update, with its history.
        rates: Its learning rates.
        surroundings: What else goes on where it was.
        ranks: Those that train together.
    """

    solver: caffe_pb2.SolverParameter
    train: FedNet
    tests: Sequence[FedNet]
    update: Update
    rates: Rates
    surroundings: Surroundings
    ranks: Ranks


class Training:
    """A run of the solver, from some updates done to the last.

    A diverged loss ends the training before anything is updated with it, without a snapshot; so do
    weights that are not finite, before a snapshot of them is announced.

    Args:
        made: What is trained.
        events: The pipe to the supervisor.
        requests: What signals ask for.
        settings: The worker's.
        done: Updates done.
        noise: Measures the gradients of micro-batches; or None.

    Attributes:
        done: Updates done.
    """

    def __init__(
        self,
        made: Trained,
        events: Events,
        requests: Requests,
        settings: Mapping[str, Any],
        done: int,
        noise: NoiseSampler | None,
    ) -> None:
        self._made, self._solver, self._net = made, made.solver, made.train.net
        self._ranks = made.ranks
        self._events, self._requests, self._noise = events, requests, noise
        self._log = WorkerLog(settings["log"], settings["log_bytes"])
        self._record_every: int = settings["record_every"]
        self._at_tests: bool = settings["snapshot_at_tests"]
        bound: float | None = settings["max_loss"]
        self._max_loss = sys.float_info.max if bound is None else bound
        self.done = self._snapshot_at = done
        self._kept: _Kept | None = None  # while an update is unfinished, or a test runs
        self._total, self._count = 0.0, 0
        self._records: list[tuple[int, float, float]] = []
        self._shown: deque[float] = deque(maxlen=self._solver.average_loss)
        self._started = self._flushed = time.monotonic()
        self._own_s: deque[list[float]] = deque(maxlen=RECENT)
        self._statistics = [
            blob for layer in self._net.layer_blobs if layer.averages for blob in layer.blobs
        ]

    # Caffe's Solve

    def solve(self) -> bool:
        """Train to the end; returns True, or False if a request stopped it.

        Raises:
            DivergedError: The training is lost.
            InputError: The data can't be read.
            NotWrittenError: A snapshot can't be written.
        """
        log(f"Solving {self._net.net.name}")
        log(f"Learning Rate Policy: {self._solver.lr_policy}")
        try:
            self._steps()
            self._end()
        except Stop:
            return False
        self._flush()
        return True

    def _steps(self) -> None:
        solver, every = self._solver, self._solver.snapshot
        while self.done < solver.max_iter:
            self._attend()
            tests = has_test_at(solver.test_interval, self.done)
            if tests and (self.done or solver.test_initialization):
                self._keep()
                self._test_all()
                if self._at_tests and self.done and self._snapshot_at != self.done:
                    self._snapshot()
            self._update()
            if every and self.done % every == 0:
                self._snapshot()

    def _end(self) -> None:
        solver = self._solver
        if solver.snapshot_after_train and not (
            solver.snapshot and self.done % solver.snapshot == 0
        ):
            self._snapshot()
        self._attend()
        self._keep()
        if solver.display and self.done % solver.display == 0:
            self._shown.append(self._ranks.mean(self._made.train.forward().loss.item()))
            log(f"Iteration {self.done}, loss = {number(self._smoothed())}")
        if has_test_at(solver.test_interval, self.done):
            self._test_all()
        log("Optimization Done.")

    def _update(self) -> None:
        """Caffe's Step, once: the passes, then the update."""
        solver, several = self._solver, passes(self._solver)
        if several > 1:
            self._keep()
        self._net.clear_gradients()
        if self._noise:
            self._noise.begin(self.done + 1)
        total, begun, waited_s = 0.0, time.monotonic(), self._ranks.waited_s
        for _ in range(several):
            done = self._made.train.forward()
            self._net.backward(done)
            total += done.loss.item()
            if self._noise:
                self._noise.add()
            if several > 1:
                self._attend()
        own_s = time.monotonic() - begun - (self._ranks.waited_s - waited_s)
        loss, each_s = self._ranks.mean_and_each(total / several, own_s)
        self._own_s.append(each_s)
        self._take_in(loss)
        self._display(loss, done)
        if self._noise:
            self._noise.end()
        self._ranks.average([p.value.grad for p in self._net.params if p.value.grad is not None])
        self._made.update.apply(self.done, self._made.rates.next(self.done))
        self._kept = None
        self.done += 1
        pause = (solver.snapshot and self.done % solver.snapshot == 0) or has_test_at(
            solver.test_interval, self.done
        )
        if pause or self.done % self._record_every == 0 or self.done == solver.max_iter:
            self._record(self.done)
        if pause:
            self._flush()

    def _take_in(self, loss: float) -> None:
        """Note the loss of an update that is about to be applied.

        Raises:
            DivergedError: It has diverged.
        """
        self._total += loss
        self._count += 1
        if not loss <= self._max_loss:  # nan compares false
            self._record(self.done + 1)
            self._flush()
            raise DivergedError(loss)

    def _display(self, loss: float, done: Pass) -> None:
        self._shown.append(loss)
        solver = self._solver
        if not solver.display or self.done % solver.display:
            return
        log(f"Iteration {self.done}, loss = {number(self._smoothed())}")
        shown = [
            (name, value)
            for name, tensor in done.outputs.items()
            for value in tensor.flatten().tolist()
        ]
        self._say_outputs("Train", self._net.outputs, shown)
        rate = self._made.rates.peek(self.done)
        log(f"Iteration {self.done}, lr = {number(rate)}", "sgd_solver.cpp:1")

    def _smoothed(self) -> float:
        return sum(self._shown) / len(self._shown)

    def _say_outputs(
        self, which: str, outputs: Sequence[Output], values: Iterable[tuple[str, float]]
    ) -> None:
        weights = {output.name: output.loss_weight for output in outputs}
        for index, (name, value) in enumerate(values):
            weight = weights[name]
            loss = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
            log(f"    {which} net output #{index}: {name} = {number(value)}{loss}")

    # Tests

    def _test_all(self) -> None:
        """Test, on the first rank; the others wait, and take their part in its snapshots."""
        if not self._ranks.leads:
            while (word := self._ranks.await_word()) is Word.SNAPSHOT:
                self._snapshot()
            if word is Word.STOP:
                raise Stop
            return
        try:
            for index, net in enumerate(self._made.tests):
                self._test(index, net)
        except Stop:
            self._ranks.announce(Word.STOP)
            raise
        self._ranks.announce(Word.GO_ON)

    def _test(self, index: int, net: FedNet) -> None:
        """Caffe's Test: the mean of each output over the batches."""
        solver = self._solver
        log(f"Iteration {self.done}, Testing net (#{index})")

        def stop() -> bool:
            self._report_now_and_then()
            if self._requests.take():
                if self._is_unsaved():
                    self._ranks.announce(Word.SNAPSHOT)
                    self._answer()
                if self._requests.stop:  # leaves the test
                    raise Stop
            return False

        with net.calculating():
            found = score(
                net.net,
                net.next_tops,
                solver.test_iter[index],
                compute_loss=solver.test_compute_loss,
                stop=stop,
            )
        if found is None:
            return
        if found.loss is not None:
            log(f"Test loss: {number(found.loss)}")
        self._say_outputs("Test", net.net.outputs, found.outputs)

    # Requests and snapshots

    def _attend(self) -> None:
        """Called whenever there is time: report now and then, answer requests.

        All ranks do it after the same pass.
        """
        self._report_now_and_then()
        asked, stop = self._ranks.agree(snapshot=self._requests.take(), stop=self._requests.stop)
        if asked and self._ranks.given(self._is_unsaved()):
            self._answer()
        if stop:
            raise Stop

    def _report_now_and_then(self) -> None:
        if time.monotonic() - self._flushed > FLUSH_S:
            self._flush()

    def _is_unsaved(self) -> bool:
        """Whether there is no snapshot of the updates done."""
        return self._snapshot_at != self.done or not self._state_file().is_file()

    def _answer(self) -> None:
        self._record(self.done)
        self._flush()
        self._snapshot()

    def _keep(self) -> None:
        """Keep what the passes of an update or a test change, until the update is applied."""
        if self._kept is None:
            statistics = [blob.clone() for blob in self._statistics]
            self._kept = _Kept(self._made.surroundings.now(), statistics)

    def _snapshot(self) -> None:
        """Write a snapshot of the updates done, and announce it; the first rank does, for all.

        Raises:
            DivergedError: The weights aren't finite.
            NotWrittenError: It can't be written.
        """
        state = self._state_file()
        now = [blob.clone() for blob in self._statistics] if self._kept else []
        if self._kept:
            _write(self._statistics, self._kept.statistics)
        own = self._kept.moment if self._kept else self._made.surroundings.now()
        moments = self._ranks.gather(own)
        try:
            if self._ranks.leads:
                self._write_snapshot(state, joined(moments))
        except OSError as error:
            raise NotWrittenError(
                f"snapshot not written: {error.filename}: {error.strerror}"
            ) from error
        finally:
            _write(self._statistics, now)
        self._snapshot_at = self.done
        whole = self._ranks.given(self._is_finite())
        if not whole:
            raise DivergedError(None)
        self._events.send("snapshot", update=self.done, state=str(state))

    def _is_finite(self) -> bool:
        """Whether the weights are numbers."""
        return all(bool(torch.isfinite(param.value).all()) for param in self._net.params)

    def _write_snapshot(self, state: Path, moment: Moment) -> None:
        """The weights first, as in Caffe, and the solverstate last: it makes a snapshot of them."""
        weights = state.with_name(state.name.replace(".solverstate", ".caffemodel"))
        form = "HDF5" if weights.suffix == ".h5" else "binary proto"
        log(f"Snapshotting to {form} file {weights}")
        files = Snapshot(self.done, state, weights)
        write_weights(weights, self._net, self._made.update.steps)
        write_moment(files, moment)
        history = [blob.to("cpu", torch.float32).numpy() for blob in self._made.update.history]
        log(f"Snapshotting solver state to {form} file {state}", "sgd_solver.cpp:1")
        write_state(state, SolverState(self.done, self._made.rates.step, history), weights)

    def _state_file(self) -> Path:
        end = ".h5" if self._solver.snapshot_format == self._solver.HDF5 else ""
        return Path(f"{self._solver.snapshot_prefix}_iter_{self.done}.solverstate{end}")

    # Reports

    def _record(self, update: int) -> None:
        if self._count:
            seconds = time.monotonic() - self._started
            self._records.append((update, self._total / self._count, seconds))
            self._total, self._count = 0.0, 0

    def _flush(self) -> None:
        if self._ranks.leads:
            self._log.rotate_if_large()
        else:
            self._log.rejoin()
        self._flushed = time.monotonic()
        seconds = self._flushed - self._started
        several = {"rank_s": self._rank_seconds()} if self._ranks.size > 1 else {}
        self._events.send(
            "updated", update=self.done, seconds=seconds, records=self._records, **several
        )
        self._records = []
        if self._events.closed:  # the supervisor is gone
            self._requests.ask_to_stop()

    def _rank_seconds(self) -> list[float]:
        """How long each rank recently took for the passes of an update, without waiting."""
        return [sum(each) / len(each) for each in zip(*self._own_s, strict=True)]


@torch.no_grad()
def _write(blobs: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for blob, value in zip(blobs, values, strict=bool(values)):
        blob.copy_(value)
