"""What a verification draws, writes and compares, whichever engine runs it.

Runs on the runtime's Python, 3.6 and newer, with numpy.
"""

import json
import os
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np


def draw(feed: Mapping[str, Any], number: int, update: int) -> Any:
    """The numbers of one blob for all samples of an update: the same in every variant."""
    random = np.random.RandomState([number, update])
    shape = feed["shape"]
    if feed["kind"] == "uniform":
        return random.uniform(feed["low"], feed["high"], size=shape)
    if feed["kind"] == "normal":
        return random.normal(feed["low"], feed["high"] - feed["low"], size=shape)
    if feed["kind"] == "begin":
        values = np.ones(shape)
        values[:1] = 0
        return values
    values = random.randint(feed["below"] or 2, size=shape).astype(float)
    if feed["kind"] == "selector":
        values[::2] = 1
    if feed["ignored"] is not None:
        values[random.uniform(size=shape) < 0.25] = feed["ignored"]
    return values


def save(folder: str, what: str, pairs: Iterable[Tuple[Tuple[str, int], Any]]) -> None:
    """Writes arrays under their numbers, and their owners: (layer, index)."""
    pairs = list(pairs)
    arrays = {str(number): array for number, (_, array) in enumerate(pairs)}
    path = os.path.join(folder, what + ".npz")
    np.savez(path, names=json.dumps([name for name, _ in pairs]), **arrays)


def first_and_smoothed(
    passes: Sequence[float], iter_size: int, average_loss: int
) -> Tuple[float, float]:
    """The value of the first update, and the mean over the last ones; from those of the passes."""
    values = np.reshape(passes, (-1, iter_size)).mean(axis=1)
    return float(values[0]), float(values[-average_loss:].mean())


def norm(values: Any) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))


def rms(arrays: Sequence[Any]) -> float:
    """Root mean square over all elements of some arrays."""
    elements = sum(each.size for each in arrays)
    return float(np.sqrt(sum(norm(each) ** 2 for each in arrays) / max(elements, 1)))


def compared(
    variants: Sequence[Mapping[str, Any]], ran: Sequence[bool], what: str
) -> List[Dict[str, Any]]:
    """Norms and differences of the arrays that the variants wrote."""
    found: List[Any] = [
        np.load(os.path.join(variant["folder"], what + ".npz")) if there else None
        for variant, there in zip(variants, ran)
    ]
    rows = []
    for number, name in enumerate(json.loads(str(found[0]["names"]))):
        arrays: List[Any] = [
            None if each is None else np.asarray(each[str(number)], dtype=np.float64)
            for each in found
        ]
        bases = [arrays[variant["base"]] for variant in variants]
        rows.append(
            {
                "name": name,
                "shape": arrays[0].shape,
                "norms": [None if base is None else norm(base) for base in bases],
                "differences": [
                    None if array is None or base is None else norm(array - base)
                    for array, base in zip(arrays, bases)
                ],
            }
        )
    return rows


def losses_of(variant: Mapping[str, Any], ran: bool) -> Any:
    """The losses of a variant, if it ran, and the sizes of their terms: first and smoothed."""
    if not ran:
        return (None, None), (None, None)
    with open(os.path.join(variant["folder"], "losses.json")) as file:
        return json.load(file)


def comparison(variants: Sequence[Mapping[str, Any]], statuses: Sequence[int]) -> Dict[str, Any]:
    """What was found: the statuses, and what the variants that ran have written."""
    ran = [status == 0 for status in statuses]
    result: Dict[str, Any] = {"statuses": statuses}
    if ran[0]:
        both, sizes = zip(*(losses_of(*each) for each in zip(variants, ran)))
        result["first_losses"], result["losses"] = zip(*both)
        result["loss_sizes"] = sizes[0]
        undisturbed = [
            there and not variant["disturbance"] for variant, there in zip(variants, ran)
        ]
        result["gradient"] = compared(variants, undisturbed, "gradient")
        for what in ("weights", "statistics"):
            result[what] = compared(variants, ran, what)
    return result
