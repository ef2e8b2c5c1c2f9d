"""Damage to JSON files, drawn at random: wrong types, missing and unknown fields, broken text."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

#: Values that no field should have, or not every field.
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 0.5, 1e300, -1e-300, "", "x", "\ud800", "\udc80",
    "a\0b", "../x", "\n", [], [[]], [None], {}, {"x": {}}, [1, "2"], "2020-01-01", "GPU 1",
)  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in some JSON."""
    steps: list[Any] = []
    if isinstance(content, dict):
        steps = list(content)
    elif isinstance(content, list):
        steps = list(range(len(content)))
    inner = [place for step in steps for place in places(content[step], (*path, step))]
    return [*([path] if path else []), *inner]


def _strange(draw: random.Random) -> Any:
    """A value of its own: the next change may change it as well."""
    return deepcopy(draw.choice(STRANGE))


def mutated(content: Any, draw: random.Random) -> None:
    """Change, remove or add something somewhere."""
    place = draw.choice(places(content))
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    how = draw.random()
    if how < 0.15:
        del inner[place[-1]]
    elif how < 0.25 and isinstance(inner, dict):
        inner[draw.choice(["x", "format", "stages", "phases", "update"])] = _strange(draw)
    else:
        inner[place[-1]] = _strange(draw)


def as_text(content: Any, draw: random.Random) -> bytes:
    """JSON with, now and then, something in its text that shouldn't be there."""
    text = json.dumps(content).encode()
    if draw.random() < 0.2:
        at = draw.randrange(len(text))
        text = (
            text[:at] + draw.choice([b"", b"NaN", b"\xff", b"1e999", b"{", b'"']) + text[at + 2 :]
        )
    return text
