"""Makes a case smaller as long as it stays false: what is left shows the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tools.audit_search.nets import Case, DrawnLayer


def shrink(case: Case, is_false: Callable[[Case], bool]) -> Case:
    """The smallest case found by taking one thing away at a time."""
    tried = {repr(case)}
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(case):
            if repr(candidate) in tried:
                continue
            tried.add(repr(candidate))
            if is_false(candidate):
                case, smaller = candidate, True
                break
    return case


def _candidates(case: Case) -> Iterator[Case]:
    for index in reversed(range(len(case.layers))):
        yield replace(case, layers=_without(case.layers, index))
    for index, layer in enumerate(case.layers):
        if layer.bottoms and layer.tops:
            yield replace(case, layers=_bypassed(case.layers, index))
    for index, layer in enumerate(case.layers):
        for plainer in _plainer(layer):
            layers = (*case.layers[:index], plainer, *case.layers[index + 1 :])
            yield replace(case, layers=layers)
        if layer.in_place:
            yield replace(case, layers=_out_of_place(case.layers, index))
    for name in case.net:
        yield replace(case, net={n: v for n, v in case.net.items() if n != name})
    for name in case.solver:
        if name not in ("type:", "base_lr:", "lr_policy:", "max_iter:"):
            solver = {n: v for n, v in case.solver.items() if n != name}
            yield replace(case, solver=solver)
    for field, value in (("type:", '"SGD"'), ("base_lr:", "0.01"), ("lr_policy:", '"fixed"')):
        if case.solver.get(field) != value:
            yield replace(case, solver={**case.solver, field: value})
    if case.iter_size > 2:
        yield replace(case, iter_size=2)
    for size in (2, 1):
        if case.batch_size > size:
            yield replace(case, batch_size=size)


def _without(layers: tuple[DrawnLayer, ...], index: int) -> tuple[DrawnLayer, ...]:
    """Without a layer and all that needs its tops; one in place leaves the blob as it was."""
    gone = set(layers[index].tops) - set(layers[index].bottoms)
    kept = list(layers[:index])
    for layer in layers[index + 1 :]:
        if gone.isdisjoint(layer.bottoms):
            kept.append(layer)
        else:
            gone |= set(layer.tops)
    return tuple(kept)


def _bypassed(layers: tuple[DrawnLayer, ...], index: int) -> tuple[DrawnLayer, ...]:
    """Without a layer; who read its first top reads its first bottom."""
    old, new = layers[index].tops[0], layers[index].bottoms[0]
    return (*layers[:index], *(_renamed(layer, old, new) for layer in layers[index + 1 :]))


def _out_of_place(layers: tuple[DrawnLayer, ...], index: int) -> tuple[DrawnLayer, ...]:
    layer = layers[index]
    name = layer.tops[0]
    moved = replace(layer, tops=(f"{name}x", *layer.tops[1:]))
    after = (_renamed(other, name, f"{name}x") for other in layers[index + 1 :])
    return (*layers[:index], moved, *after)


def _renamed(layer: DrawnLayer, old: str, new: str) -> DrawnLayer:
    return replace(
        layer,
        bottoms=tuple(new if bottom == old else bottom for bottom in layer.bottoms),
        tops=tuple(new if top == old else top for top in layer.tops),
    )


def _plainer(layer: DrawnLayer) -> Iterator[DrawnLayer]:
    if layer.loss_weights:
        yield replace(layer, loss_weights=())
        if any(weight not in (0, 1) for weight in layer.loss_weights):
            yield replace(layer, loss_weights=tuple(float(w != 0) for w in layer.loss_weights))
    if layer.propagate_down:
        yield replace(layer, propagate_down=())
    if layer.params:
        yield replace(layer, params=())
    if layer.rules:
        yield replace(layer, rules="")
