"""Results that are made again are those that torch would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from caffe_batch.engines.torch.worker.results import Results


class Checking(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Compares each result that was made again with what torch gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results, self.asked, self.compared = Results(), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        options = kwargs or {}
        own = [self.results.of(func, args, options) for _ in range(2)]  # the second from memory
        torchs = func(*args, **options)
        for mine in own:
            _compare(mine, torchs, args)
            self.compared += 1
        return own[1]


def _compare(mine: Any, torchs: Any, args: Any) -> None:
    if isinstance(torchs, (list, tuple)):
        assert len(mine) == len(torchs)
        for each, other in zip(mine, torchs, strict=True):
            _compare(each, other, args)
        return
    assert type(mine) is type(torchs)
    if not isinstance(mine, FakeTensor):
        assert mine == torchs
        return
    for what in ("shape", "dtype", "device", "layout"):
        assert getattr(mine, what) == getattr(torchs, what)
    assert mine.stride() == torchs.stride()
    assert mine.storage_offset() == torchs.storage_offset()
    assert mine.untyped_storage().nbytes() == torchs.untyped_storage().nbytes()
    given = [id(each.untyped_storage()) for each in args if isinstance(each, Tensor)]
    shared = [[id(each.untyped_storage()) == key for key in given] for each in (mine, torchs)]
    assert shared[0] == shared[1], "the same arguments share their memory"


def _batch_norm(x: Tensor) -> Tensor:
    mean, variance = torch.zeros(4), torch.zeros(4)
    return functional.batch_norm(x, mean, variance, None, None, True, 0.5, 1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.detach() + x).relu_().mul(2).abs().sum(),
        lambda x: _batch_norm(x).view(x.shape[0], -1)[0].unsqueeze(0).sum(),
        lambda x: functional.conv2d(x, torch.ones(5, 4, 2, 2, requires_grad=True)).sum(),
        lambda x: x.contiguous(memory_format=torch.channels_last).clone().square().mean(),
        lambda x: torch.where(x == 0, 0, 1 / x).max(dim=1).values.sum(),
        lambda x: (
            functional.max_pool2d(x, 2)
            .permute(0, 2, 3, 1)
            .unsqueeze(0)
            .expand(3, -1, -1, -1, -1)
            .sum()
        ),
        lambda x: torch.cat([x, x[:1]])[1:].sum(),
        lambda x: functional.dropout(x, 0.5, training=True).double().sum().float(),
        lambda x: functional.log_softmax(x.flatten(1), 1).t().sum(),
    ],
)
def test_results_are_those_of_torch(function: Callable[[Tensor], Tensor]) -> None:
    checking = Checking()
    with FakeTensorMode(allow_non_fake_inputs=True), checking:
        for shape in ((6, 4, 7, 5), (6, 4, 7, 5), (1, 4, 7, 5), (6, 4, 7, 2)):
            torch.autograd.backward(function(torch.zeros(shape, requires_grad=True)))
    assert checking.compared > 20


def test_what_changes_a_tensors_shape_is_left_to_torch() -> None:
    checking = Checking()
    with FakeTensorMode(), checking:
        x = torch.zeros(2, 3)
        x.t_()
        x.unsqueeze_(0)
        assert x.shape in ((1, 3, 2), (1, 1, 1, 3, 2))
    results = Results()
    with FakeTensorMode():
        x = torch.zeros(2, 3)
        results.of(torch.ops.aten.resize_.default, (x, [5, 5]), {})
        assert x.shape == (5, 5)
