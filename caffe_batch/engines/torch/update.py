"""Caffe's update of the parameters (sgd_solver.cpp and the five beside it).

Per update, in this order: the gradients of iter_size passes are summed; their common norm is
clipped; they are divided by iter_size; weight decay is added; the rule makes a step of them.

All learnable blobs take part, also frozen ones and the statistics of BatchNorm: without a gradient
they still decay, which their history shows. The reference is written in foreach operations, which
are torch's public behaviour. Where torch's fused kernels can do the same rule, they do: see
:class:`_Fused`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from caffe_batch.engines.torch.net import Param
from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.solver.updates import clips, passes

Factor = float | Tensor


@dataclass(frozen=True)
class _Group:
    """Parameters that are updated alike.

    Attributes:
        indices: Which ones.
        lr_mult: Their factor of the rate.
        decay: Their weight decay, decay_mult included.
    """

    indices: tuple[int, ...]
    lr_mult: float
    decay: float


@dataclass(frozen=True)
class _Lists:
    """The tensors of a group: weights, gradients, histories.

    A rule adds its step to the weights, and asks for nothing else of them.
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]


class Update:
    """A solver's update.

    Args:
        solver: The solver, in current syntax.
        params: The learnable blobs, in Caffe's order.
        fused: Whether torch's fused kernels may be used.

    Raises:
        InputError: Caffe has no such type or regularization.

    Attributes:
        history: As a .solverstate lists it: one blob a parameter; AdaDelta and Adam append a
            second series after the first.
        steps: With ``snapshot_diff``, what the last update took from each parameter, which is what
            Caffe's blobs have as their gradient after it; empty otherwise.
    """

    def __init__(
        self, solver: caffe_pb2.SolverParameter, params: Sequence[Param], *, fused: bool = True
    ) -> None:
        if solver.type not in RULES:
            raise InputError(
                f"Caffe has no solver type {solver.type!r}",
                hint=did_you_mean(solver.type, list(RULES)) or f"There are: {', '.join(RULES)}.",
            )
        self.solver = solver
        self._rule = RULES[solver.type](solver)
        self._params = [param.value for param in params]
        series = 2 if self._rule.has_second_series else 1
        self.history = [torch.zeros_like(p, requires_grad=False) for p in self._params * series]
        keeps = self._params if solver.snapshot_diff else []
        self.steps = [torch.zeros_like(p, requires_grad=False) for p in keeps]
        self._groups = list(_groups(solver, params))
        self._fused = fused and not keeps

    @torch.no_grad()
    def apply(self, done: int, rate: float | None = None) -> None:
        """One update; the gradients are used up and must be cleared.

        Args:
            done: Updates done before it.
            rate: Its learning rate; that of the solver's policy if None.
        """
        if rate is None:
            rate = learning_rate(self.solver, done)
        factor = self._factor()
        for group in self._groups:
            self._apply(group, rate * group.lr_mult, factor, done)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The norm of all summed gradients, a scalar on the device."""
        gradients = [p.grad for p in self._params if p.grad is not None]
        if not gradients:
            return torch.zeros((), device=self._params[0].device if self._params else None)
        return torch.stack(torch._foreach_norm(gradients)).square().sum().sqrt()

    def _factor(self) -> Factor:
        """What the summed gradients are multiplied by: clipping, then the division."""
        share = 1 / passes(self.solver)
        if not clips(self.solver):
            return share
        limit, norm = self.solver.clip_gradients, self.norm()
        return torch.where(norm > limit, limit / norm, 1.0) * share

    def _apply(self, group: _Group, rate: float, factor: Factor, done: int) -> None:
        number = len(self._params)
        weights: list[Tensor] = [self._params[i].detach() for i in group.indices]
        given = [self._params[i].grad for i in group.indices]
        first = [self.history[i] for i in group.indices]
        second = [self.history[i + number] for i in group.indices] if (
            self._rule.has_second_series
        ) else []  # fmt: skip
        gradients = [
            torch.zeros_like(w) if g is None else g for g, w in zip(given, weights, strict=True)
        ]
        lists = _Lists(weights, gradients, first, second)
        l1 = self.solver.regularization_type == "L1"
        fusible = self._fused and rate and not (l1 and group.decay)
        if fusible and self._rule.fused(lists, rate, group.decay, factor, done):
            return
        if isinstance(factor, Tensor) or factor != 1:
            torch._foreach_mul_(gradients, factor)
        if group.decay:
            pull = torch._foreach_sign(weights) if l1 else weights
            torch._foreach_add_(gradients, pull, alpha=group.decay)
        if not self.steps:
            self._rule.step(lists, rate, done)
            return
        moves = [torch.zeros_like(w) for w in weights]
        self._rule.step(replace(lists, weights=moves), rate, done)
        torch._foreach_add_(weights, moves)
        for i, move in zip(group.indices, moves, strict=True):
            self.steps[i] = move.neg_()


def _groups(solver: caffe_pb2.SolverParameter, params: Sequence[Param]) -> list[_Group]:
    if solver.regularization_type not in ("L1", "L2") and solver.weight_decay:
        raise InputError(
            f"Caffe has no regularization_type {solver.regularization_type!r}",
            hint="There are L1 and L2.",
        )
    alike: dict[tuple[float, float, Any], list[int]] = {}
    for i, param in enumerate(params):
        kind = (param.value.dtype, param.value.device)
        decay = solver.weight_decay * param.decay_mult
        alike.setdefault((param.lr_mult, decay, kind), []).append(i)
    return [_Group(tuple(indices), lr, decay) for (lr, decay, _), indices in alike.items()]


class _Rule(ABC):
    """How a type turns gradients into a step.

    Attributes:
        has_second_series: Whether its history has two blobs a parameter.
    """

    has_second_series: ClassVar[bool] = False

    def __init__(self, solver: caffe_pb2.SolverParameter) -> None:
        self.momentum = solver.momentum
        self.momentum2 = solver.momentum2
        self.decay_of_squares = solver.rms_decay
        self.delta = solver.delta

    @abstractmethod
    def step(self, lists: _Lists, rate: float, done: int) -> None:
        """Changes history and weights; the gradients are clipped, divided and decayed."""

    def fused(self, lists: _Lists, rate: float, decay: float, factor: Factor, done: int) -> bool:
        """The same and all that comes before it, in one kernel; False where there is none."""
        return False


class _SGD(_Rule):
    """h = m*h + rate*g; w -= h."""

    nesterov = False

    def step(self, lists: _Lists, rate: float, done: int) -> None:
        torch._foreach_mul_(lists.first, self.momentum)
        torch._foreach_add_(lists.first, lists.gradients, alpha=rate)
        self.move(lists, rate)

    def move(self, lists: _Lists, rate: float) -> None:
        torch._foreach_sub_(lists.weights, lists.first)

    def fused(self, lists: _Lists, rate: float, decay: float, factor: Factor, done: int) -> bool:
        """Torch divides the gradient by grad_scale first: so the rate gets into the history."""
        if not self.momentum:  # torch would keep no history
            return False
        scale = torch.as_tensor(
            1 / (factor * rate), dtype=torch.float32, device=lists.weights[0].device
        )
        return _call(
            "_fused_sgd_", lists.weights, lists.gradients, lists.first,
            weight_decay=rate * decay, momentum=self.momentum, lr=1.0, dampening=0.0,
            nesterov=self.nesterov, maximize=False, is_first_step=False, grad_scale=scale,
        )  # fmt: skip


class _Nesterov(_SGD):
    """o = h; h = m*h + rate*g; w -= (1+m)*h - m*o, which is rate*g + m*h."""

    nesterov = True

    def move(self, lists: _Lists, rate: float) -> None:
        torch._foreach_add_(lists.weights, lists.gradients, alpha=-rate)
        torch._foreach_add_(lists.weights, lists.first, alpha=-self.momentum)


class _AdaGrad(_Rule):
    """h += g*g; w -= rate*g/(sqrt(h)+delta)."""

    def step(self, lists: _Lists, rate: float, done: int) -> None:
        self.remember(lists)
        if rate:
            roots = torch._foreach_sqrt(lists.first)
            torch._foreach_add_(roots, self.delta)
            torch._foreach_addcdiv_(lists.weights, lists.gradients, roots, value=-rate)

    def remember(self, lists: _Lists) -> None:
        torch._foreach_addcmul_(lists.first, lists.gradients, lists.gradients)


class _RMSProp(_AdaGrad):
    """h = r*h + (1-r)*g*g; w -= rate*g/(sqrt(h)+delta)."""

    def remember(self, lists: _Lists) -> None:
        torch._foreach_mul_(lists.first, self.decay_of_squares)
        torch._foreach_addcmul_(
            lists.first, lists.gradients, lists.gradients, value=1 - self.decay_of_squares
        )


class _AdaDelta(_Rule):
    """h = m*h + (1-m)*g*g; u = g*sqrt((h2+delta)/(h+delta)); h2 = m*h2 + (1-m)*u*u; w -= rate*u."""

    has_second_series = True

    def step(self, lists: _Lists, rate: float, done: int) -> None:
        m = self.momentum
        torch._foreach_mul_(lists.first, m)
        torch._foreach_addcmul_(lists.first, lists.gradients, lists.gradients, value=1 - m)
        steps = torch._foreach_add(lists.second, self.delta)
        torch._foreach_div_(steps, torch._foreach_add(lists.first, self.delta))
        torch._foreach_sqrt_(steps)
        torch._foreach_mul_(steps, lists.gradients)
        torch._foreach_mul_(lists.second, m)
        torch._foreach_addcmul_(lists.second, steps, steps, value=1 - m)
        if rate:
            torch._foreach_add_(lists.weights, steps, alpha=-rate)


class _Adam(_Rule):
    """h = b1*h + (1-b1)*g; h2 = b2*h2 + (1-b2)*g*g; w -= rate*c*h/(sqrt(h2)+delta).

    c = sqrt(1-b2^t)/(1-b1^t), where t counts the updates from 1.
    """

    has_second_series = True

    def step(self, lists: _Lists, rate: float, done: int) -> None:
        b1, b2, t = self.momentum, self.momentum2, done + 1
        torch._foreach_mul_(lists.first, b1)
        torch._foreach_add_(lists.first, lists.gradients, alpha=1 - b1)
        torch._foreach_mul_(lists.second, b2)
        torch._foreach_addcmul_(lists.second, lists.gradients, lists.gradients, value=1 - b2)
        if rate:
            correction = math.sqrt(1 - b2**t) / (1 - b1**t)
            roots = torch._foreach_sqrt(lists.second)
            torch._foreach_add_(roots, self.delta)
            torch._foreach_addcdiv_(lists.weights, lists.first, roots, value=-rate * correction)

    def fused(self, lists: _Lists, rate: float, decay: float, factor: Factor, done: int) -> bool:
        """Torch divides the root by sqrt(1-b2^t) before it adds eps."""
        device, t = lists.weights[0].device, done + 1
        scale = torch.as_tensor(1 / factor, dtype=torch.float32, device=device)
        steps = [torch.full((), float(t), device=device)] * len(lists.weights)
        return _call(
            "_fused_adam_", lists.weights, lists.gradients, lists.first, lists.second, [], steps,
            lr=rate, beta1=self.momentum, beta2=self.momentum2, weight_decay=decay,
            eps=self.delta / math.sqrt(1 - self.momentum2**t), amsgrad=False, maximize=False,
            grad_scale=scale,
        )  # fmt: skip


#: The rules by solver type.
RULES: dict[str, type[_Rule]] = {
    "SGD": _SGD,
    "Nesterov": _Nesterov,
    "AdaGrad": _AdaGrad,
    "RMSProp": _RMSProp,
    "AdaDelta": _AdaDelta,
    "Adam": _Adam,
}


def _call(kernel: str, *lists: Any, **settings: Any) -> bool:
    """Calls one of torch's fused kernels, if this torch has it for this device."""
    function = getattr(torch, kernel, None)
    if function is None:
        return False
    function(*lists, **settings)
    return True
