"""What a plan changes in the user's files, one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffe_batch.errors import NetError, Option
from caffe_batch.layers.base import Layer
from caffe_batch.net.batch import batch_sites, site_size, size_at
from caffe_batch.net.graph import rule_of
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True, slots=True)
class Change:
    """One field that a plan sets.

    Attributes:
        file: Which file it is in: ``"net"``, ``"solver"``, or ``"test_net_0"`` for a test net
            with its own file.
        layer: Index of the layer in the net (current syntax), None for solver fields.
        path: The field: names, and numbers for repeated fields.
        before: Its value in the user's file; None if it wasn't set.
        after: Its value in the plan; None if it is removed.
        reason: Why, in a sentence.
        layer_name: The layer's name, for display.
    """

    file: str
    path: tuple[str | int, ...]
    before: Any
    after: Any
    reason: str
    layer: int | None = None
    layer_name: str = ""

    @property
    def place(self) -> tuple[str, int | None, tuple[str | int, ...]]:
        """What it sets: no two changes of a plan set the same field."""
        return self.file, self.layer, self.path

    @property
    def field(self) -> str:
        """The field for display: ``layer "data" data_param.batch_size``."""
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return f'layer "{self.layer_name}" {text}' if self.layer is not None else text

    def json(self) -> dict[str, Any]:
        """As in plan.json."""
        return {
            "file": f"{self.file}.prototxt",
            "field": self.field,
            "from": self.before,
            "to": self.after,
            "reason": self.reason,
            "layer_index": self.layer,
            "layer_name": self.layer_name,
            "path": list(self.path),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Change:
        """The change that :meth:`json` wrote.

        Raises:
            KeyError: It was written by a version that didn't write the path.
        """
        return cls(
            file=content["file"].removesuffix(".prototxt"),
            path=tuple(content["path"]),
            before=content["from"],
            after=content["to"],
            reason=content["reason"],
            layer=content["layer_index"],
            layer_name=content["layer_name"],
        )


def batch_changes(recipe: Recipe, layers: Sequence[Layer], size: int) -> list[Change]:
    """The changes that give the train net another batch size; none if it already has it.

    Args:
        recipe: Where the layers come from.
        layers: The TRAIN layers, as returned by ``recipe.train.layers``.
        size: The new batch size.
    """
    return layer_changes(
        layers,
        [index for index, _ in recipe.train.selected()],
        size,
        "the micro-batch that fits the budget",
    )


def layer_changes(
    layers: Sequence[Layer], indices: Sequence[int], size: int, reason: str, file: str = "net"
) -> list[Change]:
    """The changes that give some layers of a file another batch size.

    Args:
        layers: The layers of one phase.
        indices: The index of each in the file.
        size: The new batch size.
        reason: Why, in a sentence.
        file: Which file it is.
    """
    changes = []
    sites = batch_sites(layers)
    for site in sites:
        layer = layers[site.layer]
        rule = rule_of(layer)
        number = size_at(layers, site, sites[0], size)
        before, after, why = site_size(layers, site), number, reason
        if before == number:
            continue
        path: tuple[str | int, ...] | None
        if site.shape is None:
            path = rule.batch_path(layer.settings)
            before, after = (rule.batch_value(layer.settings, size) for size in (before, number))
        else:
            path = rule.literal_path(layer.settings, site.shape, site.axis)
        if path is None:
            raise NetError(
                f"its batch of {before} isn't written in the file, so a plan can't make it "
                f"{number}",
                layer=layer.name,
                hint=["Plan with ", Option("batch_size", before), ": iter_size alone changes."],
            )
        if rule.copied_axis is not None:
            after = rule.copied_axis
            why = f"the batch size is written out here; a {after} copies it"
        changes.append(Change(file, path, before, after, why, indices[site.layer], layer.name))
    return changes


def inside_solver(change: Change, number: int) -> Change:
    """A change in a test net written inside the solver, as a change of the solver's field."""
    path = ("test_net_param", number, "layer", change.layer or 0, *change.path)
    return replace(change, path=path, layer=None)


def iter_size_change(solver: caffe_pb2.SolverParameter, iter_size: int) -> list[Change]:
    """The change of iter_size, or none."""
    if solver.iter_size == iter_size:
        return []
    before = solver.iter_size if solver.HasField("iter_size") else None
    reason = "micro-batches whose gradients add up to one update"
    return [Change("solver", ("iter_size",), before, iter_size, reason)]


def applied(recipe: Recipe, changes: Iterable[Change]) -> Recipe:
    """The recipe after the changes to its files; the given messages stay as they were.

    Raises:
        ValueError: Two changes set one field to different values.
    """
    changes = list(changes)
    values: dict[Any, Any] = {}
    for change in changes:
        known = values.setdefault(change.place, change.after)
        if known != change.after and known == known:  # nan differs from itself
            raise ValueError(
                f"two values for {change.field}: {values[change.place]}, {change.after}"
            )
    solver = caffe_pb2.SolverParameter()
    solver.CopyFrom(recipe.solver)
    copies: dict[int, caffe_pb2.NetParameter] = {}
    for file in (recipe.train, *recipe.tests):
        if id(file.message) not in copies:
            copy = copies[id(file.message)] = caffe_pb2.NetParameter()
            copy.CopyFrom(file.message)
    train = replace(recipe.train, message=copies[id(recipe.train.message)])
    for number, inline in enumerate(solver.test_net_param):
        copies[id(recipe.tests[number].message)] = inline
    tests = tuple(replace(file, message=copies[id(file.message)]) for file in recipe.tests)
    files = {"net": train.message, "solver": solver}
    files |= {f"test_net_{number}": file.message for number, file in enumerate(tests)}
    skipped = [each for each in changes if _is_skipped(recipe, each)]
    for change in changes:
        if change in skipped:
            continue
        inside = () if change.layer is None else ("layer", change.layer)
        _set(files[change.file], (*inside, *change.path), change.after)
    train = _with_skipped(train, skipped)
    tests = tuple(_with_skipped(file, skipped) for file in tests)
    return replace(recipe, solver=solver, train=train, tests=tests)


def _is_skipped(recipe: Recipe, change: Change) -> bool:
    """Whether a change is of a number in fields that Caffe 1.0 doesn't have."""
    return any(
        each.layer == change.layer and each.batch is not None and each.batch[0] == change.path
        for each in recipe.skipped
    )


def _with_skipped(file: NetFile, changes: Sequence[Change]) -> NetFile:
    """The net with other numbers in its skipped fields."""
    numbers = {(change.layer, change.path): change.after for change in changes}
    return replace(
        file,
        skipped=tuple(
            replace(each, batch=(each.batch[0], numbers[each.layer, each.batch[0]]))
            if each.batch and (each.layer, each.batch[0]) in numbers
            else each
            for each in file.skipped
        ),
    )


def _set(message: Any, path: tuple[str | int, ...], value: Any) -> None:
    """Sets, appends or (for None) removes what a path names."""
    *steps, last = path
    for step in steps:
        if isinstance(step, str):
            message = getattr(message, step)
        else:
            message = message[step] if step < len(message) else message.add()
    if isinstance(last, str):
        message.ClearField(last) if value is None else setattr(message, last, value)
    elif value is None:
        del message[last]
    elif last < len(message):
        message[last] = value
    else:
        message.append(value)
