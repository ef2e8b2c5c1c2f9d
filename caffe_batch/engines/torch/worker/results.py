"""What operations return on tensors without numbers, found out once for equal arguments.

torch asks each operation anew what it would return, which takes longer than the operation. A count
runs the same layers over and over; so what was found out is made again from shapes and strides. An
operation that changes a tensor's numbers alone changes nothing where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

#: In-place operations that change more than numbers.
_RESIZING = ("resize", "set_", "swap")
_VIEWS = frozenset(
    {
        torch.ops.aten.detach.default,
        torch.ops.aten.view.default,
        torch.ops.aten.select.int,
        torch.ops.aten.unsqueeze.default,
    }
)
_CPU = torch.device("cpu")
_BATCH_NORM = torch.ops.aten.native_batch_norm.default


class _Made(NamedTuple):
    """A tensor that an operation has made, with memory of its own.

    Attributes:
        shape, strides, dtype: What it is.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class _Unknown(Exception):  # noqa: N818  # it isn't an error
    """An argument that can't be part of a key."""


class Results:
    """The results of operations on fake tensors."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[_Made | None, ...] | None] = {}

    def of(self, func: Any, args: Any, options: Mapping[str, Any]) -> Any:
        """What an operation returns."""
        does = _does(func)
        if does.only_writes:
            return args[0]
        if does.views and isinstance(args[0], FakeTensor) and args[0].fake_device == _CPU:
            mode = args[0].fake_mode
            with in_kernel_invocation_manager(mode):  # on the memory itself
                view = func(*args, **options)
            return FakeTensor(mode, view, _CPU)
        if not does.makes:
            return func(*args, **options)
        try:
            mode = _mode(args)
            key = (func, _key(args), _key(tuple(options.items())))
        except _Unknown:
            return func(*args, **options)
        known = self._known.get(key)
        if known is not None:
            made = [each and _again(each, mode) for each in known]
            return tuple(made) if does.several else made[0]
        found = func(*args, **options)
        if key not in self._known:
            self._known[key] = _described(found, args)
        return found


class _Does(NamedTuple):
    """What an operation does.

    Attributes:
        only_writes: It writes numbers into its first argument, and returns it.
        views: It returns another view of its first argument.
        makes: It returns new tensors, and changes nothing.
        several: It returns a tuple.
    """

    only_writes: bool
    views: bool
    makes: bool
    several: bool


@cache
def _does(func: Any) -> _Does:
    schema = func._schema
    writes = [
        number for number, each in enumerate(schema.arguments)
        if each.alias_info is not None and each.alias_info.is_write
    ]  # fmt: skip
    views = any(each.alias_info is not None for each in (*schema.arguments, *schema.returns))
    name = schema.name.partition("::")[2]
    resizes = torch.Tag.inplace_view in func.tags or name.startswith(_RESIZING)
    returns = [str(each.type) for each in schema.returns]
    only_writes = writes == [0] and name.endswith("_") and returns == ["Tensor"] and not resizes
    makes = {*returns} == {"Tensor"} and (not views or func is _BATCH_NORM)  # it writes averages
    return _Does(only_writes, func in _VIEWS, makes, len(returns) > 1)


def _mode(args: Any) -> Any:
    """The mode of the first fake tensor."""
    for each in tree_leaves(args):
        if isinstance(each, FakeTensor):
            return each.fake_mode
    raise _Unknown


def _key(value: Any) -> Any:
    """Equal for values that give equal results."""
    if isinstance(value, FakeTensor):
        return value.shape, value.stride(), value.storage_offset(), value.dtype, value.is_conj()
    if isinstance(value, torch.Tensor):
        raise _Unknown
    if isinstance(value, (list, tuple)):
        return tuple([_key(each) for each in value])
    return type(value), value


def _described(found: Any, args: Any) -> tuple[_Made | None, ...] | None:
    """What was returned, to be made again; None if it can't be."""
    found = found if isinstance(found, (list, tuple)) else (found,)
    seen = {id(each.untyped_storage()) for each in tree_leaves(args)
            if isinstance(each, torch.Tensor)}  # fmt: skip
    made: list[_Made | None] = []
    for each in found:
        if each is None:
            made.append(None)
            continue
        if not isinstance(each, FakeTensor) or each.device.type != "cpu":
            return None
        storage = each.untyped_storage()
        one = _Made(tuple(each.shape), each.stride(), each.dtype)
        own = _bytes(one)
        if id(storage) in seen or storage.nbytes() != own or each.storage_offset():
            return None
        seen.add(id(storage))
        made.append(one)
    return tuple(made)


def _bytes(made: _Made) -> int:
    """The bytes of the memory that just holds a tensor."""
    if 0 in made.shape:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(made.shape, made.strides, strict=True))
    return (last + 1) * made.dtype.itemsize


def _again(made: _Made, mode: Any) -> FakeTensor:
    with torch._C._DisableTorchDispatch():  # as nobody is to be asked again
        meta = torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device="meta")
        return FakeTensor(mode, meta, _CPU)
