"""Which pictures become the test set, and in which order the records come.

Both follow from a hash of the seed and the picture's name. So the same pictures make the same sets
on any machine and with any version of Python, and a picture that is added moves few others.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

from caffe_batch.datasets.sources import Item
from caffe_batch.errors import InputError, Option

#: How many classes a message names.
_NAMED = 5


def split(
    items: Sequence[Item], classes: Sequence[str], share: Fraction, seed: int
) -> tuple[list[Item], list[Item]]:
    """The items of the training set and of the test set, each in the order of the source.

    Each class gives the same share, rounded, but at least one picture to both sets.

    Args:
        items: All of them.
        classes: Names of the classes, by label.
        share: Of the test set; 0 makes none.
        seed: Another one makes other sets.

    Raises:
        InputError: A class has a single picture.
    """
    if not share:
        return list(items), []
    members: dict[int, list[Item]] = {}
    for item in items:
        members.setdefault(item.label, []).append(item)
    single = [classes[label] for label, own in sorted(members.items()) if len(own) == 1]
    if single:
        named = ", ".join(map(repr, single[:_NAMED]))
        more = f" and {len(single) - _NAMED:,} more" if len(single) > _NAMED else ""
        raise InputError(
            f"a class with a single picture can't be in both sets: {named}{more}",
            hint=[
                "Add pictures or remove the class. ",
                Option("test_share", 0),
                " makes a training set alone, ",
                Option("test", "SOURCE"),
                " names a test set of your own.",
            ],
        )
    tested: set[str] = set()
    for own in members.values():
        number = min(max(1, round(share * len(own))), len(own) - 1)
        tested.update(item.name for item in mixed(own, seed)[:number])
    train = [item for item in items if item.name not in tested]
    return train, [item for item in items if item.name in tested]


def mixed(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order that only the seed and their names decide."""
    start = b"%d/" % seed

    def place(item: Item) -> bytes:
        name = item.name.encode("utf-8", "surrogateescape")
        return blake2b(start + name, digest_size=16).digest()

    return sorted(items, key=place)
