"""What can go wrong, as exceptions with a hint.

Every error that the library raises on purpose derives from :class:`CaffeBatchError`; each subclass
also derives from the nearest builtin, so that callers who don't know the library catch it as well.
The command line maps the classes to exit codes in one place (:mod:`caffe_batch.cli.main`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from caffe_batch.terminal import one_line

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Option:
    """An argument of the library, which is an option of the command line.

    >>> Option("gpu_memory", "8GiB").python, Option("gpu_memory", "8GiB").shell
    ('gpu_memory="8GiB"', '--gpu-memory 8GiB')
    >>> Option("cpu", True).python, Option("cpu", True).shell
    ('cpu=True', '--cpu')
    >>> Option("keep_tests").python, Option("keep_tests").shell
    ('keep_tests', '--keep-tests')

    Attributes:
        name: The keyword of the library's functions.
        value: What to give for it; None where only the option is named.
    """

    name: str
    value: str | int | float | None = None

    @property
    def python(self) -> str:
        """As a call of the library has it."""
        value = self.value if isinstance(self.value, bool) else json.dumps(self.value)
        return self.name if self.value is None else f"{self.name}={value}"

    @property
    def shell(self) -> str:
        """As a command line has it."""
        word = f"--{self.name.replace('_', '-')}"
        return word if self.value is None or self.value is True else f"{word} {self.value}"


@dataclass(frozen=True)
class Call:
    """Something to run: a command, and what does the same from Python."""

    shell: str
    python: str


#: A text in which options and calls are spelled by whoever prints it.
Text = str | Sequence[str | Option | Call]


def in_python(text: Text) -> str:
    """A text for a user of the library.

    >>> in_python(["Give ", Option("iter_size", 2), "."])
    'Give iter_size=2.'
    """
    return "".join(part if isinstance(part, str) else part.python for part in _parts(text))


def in_shell(text: Text) -> str:
    """A text for a user of the command line.

    >>> in_shell(["Give ", Option("iter_size", 2), "."])
    'Give --iter-size 2.'
    """
    return "".join(part if isinstance(part, str) else one_line(part.shell) for part in _parts(text))


def separated(items: Sequence[T], between: S) -> list[T | S]:
    """Items with something between them, as ``str.join`` does for texts.

    >>> separated([1, 2, 3], 0)
    [1, 0, 2, 0, 3]
    """
    return [part for item in items for part in (between, item)][1:]


def _parts(text: Text) -> Sequence[str | Option | Call]:
    return [text] if isinstance(text, str) else text


class CaffeBatchError(Exception):
    """Base class of all the program's own errors.

    Args:
        message: What was expected, what was found, and where, in one sentence.
        hint: What to try next, or None.

    Attributes:
        message, hint: Both as text, with options spelled as the library's arguments.
        message_parts, hint_parts: Both as they were given.
        remedies: The options that the hint names and those of ``completion``, each with the value
            to give.
        notes: What was known about the files before the error.
        completion: Options that have to be added to the call, all at once; a value may still have
            letters to fill in.
    """

    def __init__(self, message: Text, *, hint: Text | None = None) -> None:
        self.message_parts, self.hint_parts = message, hint
        self.message = in_python(message)
        self.hint = None if hint is None else in_python(hint)
        self.notes: tuple[str, ...] = ()
        self.completion: tuple[Option, ...] = ()
        super().__init__(self.message)

    def __str__(self) -> str:
        lines = [self.message] if self.hint is None else [self.message, self.hint]
        if self.completion:
            lines.append(f"All in one: {', '.join(option.python for option in self.completion)}")
        return "\n".join(lines)

    @property
    def remedies(self) -> tuple[Option, ...]:
        """What to give, or to change, as far as it is an option."""
        named = [part for part in self.hint_parts or () if isinstance(part, Option)]
        return tuple(dict.fromkeys((*named, *self.completion)))

    def in_shell(self) -> str:
        """Message and hint for a user of the command line."""
        texts = (
            [self.message_parts]
            if self.hint_parts is None
            else [self.message_parts, self.hint_parts]
        )
        return "\n".join(map(in_shell, texts))


class InputError(CaffeBatchError, ValueError):
    """A wrong option or a bad input file. Exit code 2."""


class PrototxtError(InputError):
    """A prototxt or binary message that can't be read.

    Attributes:
        path: The file as the user named it, or None for text without a file.
        line, column: 1-based position, or None for binary files.
    """

    def __init__(
        self,
        message: Text,
        *,
        path: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: Text | None = None,
    ) -> None:
        self.path, self.line, self.column = path, line, column
        where = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__([f"{where}: ", *_parts(message)] if where else message, hint=hint)


class UnknownFieldError(PrototxtError):
    """A field, or a value of an enum, that Caffe 1.0 doesn't have; it can be skipped.

    Attributes:
        misspelled: Whether it looks like another one, or like one of another message.
    """

    misspelled = False


class NetError(InputError):
    """A net that Caffe would refuse to build.

    Attributes:
        layer: Name of the layer at fault, or None where no single layer is.
    """

    def __init__(
        self, message: Text, *, layer: str | None = None, hint: Text | None = None
    ) -> None:
        self.layer = layer
        super().__init__([f"layer {layer!r}: ", *_parts(message)] if layer else message, hint=hint)


class UnknownLayerError(NetError, LookupError):
    """A layer whose type has no rule (a fork's layer, a Python layer, a typing mistake)."""


class ShapeError(NetError):
    """Shapes or settings that Caffe's own check refuses, in plain words."""


class MissingBottomError(NetError):
    """A layer reads a blob that no earlier layer produces.

    Attributes:
        blob: Name of the blob.
    """

    def __init__(
        self,
        message: Text,
        *,
        blob: str = "",
        layer: str | None = None,
        hint: Text | None = None,
    ) -> None:
        self.blob = blob
        super().__init__(message, layer=layer, hint=hint)


class InputShapeError(NetError):
    """The input size of a net can't be found: the source is missing and no size was given."""


class DoesNotFitError(CaffeBatchError, MemoryError):
    """Not even a batch of one fits the budget. Exit code 3.

    Attributes:
        missing_bytes: How many bytes the budget lacks at batch_size 1; 0 if Caffe itself ran
            out of memory and it is unknown how much there was.
    """

    def __init__(self, message: Text, *, missing_bytes: int, hint: Text | None = None) -> None:
        self.missing_bytes = missing_bytes
        super().__init__(message, hint=hint)


class TrainingError(CaffeBatchError, RuntimeError):
    """Caffe stopped before the last update. Exit code 4."""


class RuntimeMissingError(CaffeBatchError, RuntimeError):
    """No pycaffe was found, or it can't be installed. Exit code 5."""


#: A word that has a known one in it and this many letters more is a name of its own.
MOST_ADDED = 3


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """A hint naming the known words that ``word`` may be misspelled from; None if there is none.

    One typing mistake for every four letters, or a quarter of the letters left out. Whether letters
    are large or small doesn't count.

    >>> did_you_mean("Convoluton", ["Convolution", "Deconvolution", "Pooling"])
    'Did you mean Convolution?'
    >>> did_you_mean("dense_image_data_param", ["image_data_param"])
    """
    most = max(1, len(word) // 4)
    mistakes = {
        each: _mistakes(word.lower(), each.lower(), most)
        for each in known
        if each not in word or len(word) - len(each) < MOST_ADDED  # a name made of another one
    }
    least = min(mistakes.values(), default=most + 1)
    near = [each for each, number in mistakes.items() if number == least <= most]
    near = near or [
        each
        for each in known
        if 4 * len(word) >= 3 * len(each) - 3 and _leaves_out(word.lower(), each.lower())
    ]
    return f"Did you mean {' or '.join(near[:3])}?" if near else None


def _mistakes(word: str, known: str, most: int) -> int:
    """Letters missing, added, changed or swapped with their neighbour; beyond ``most``, any more.

    >>> _mistakes("tpo", "top", 1)
    1
    """
    if abs(len(word) - len(known)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, letter in enumerate(word, start=1):
        last, before, row = before, row, [i]
        for j, other in enumerate(known, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other)))
            if i > 1 < j and letter == known[j - 2] and word[i - 2] == other:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def _leaves_out(word: str, known: str) -> bool:
    """Whether the word is the known one with some letters left out."""
    letters = iter(known)
    return all(letter in letters for letter in word)
