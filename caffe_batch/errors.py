"""What can go wrong, as exceptions with a hint.

Every error that the library raises on purpose derives from :class:`CaffeBatchError`; each subclass
also derives from the nearest builtin, so that callers who don't know the library catch it as well.
The command line maps the classes to exit codes in one place (:mod:`caffe_batch.cli.main`).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class CaffeBatchError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What was expected, what was there, and where. One sentence, no traceback needed.
        hint: What to try next, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


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
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.path, self.line, self.column = path, line, column
        where = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{where}: {message}" if where else message, hint=hint)


class NetError(InputError):
    """A net that Caffe would refuse to build.

    Attributes:
        layer: Name of the layer at fault, or None where no single layer is.
    """

    def __init__(self, message: str, *, layer: str | None = None, hint: str | None = None) -> None:
        self.layer = layer
        super().__init__(f"layer {layer!r}: {message}" if layer else message, hint=hint)


class UnknownLayerError(NetError, LookupError):
    """A layer whose type has no rule (a fork's layer, a Python layer, a typing mistake)."""


class ShapeError(NetError):
    """Shapes or settings that Caffe's own check refuses, in plain words."""


class InputShapeError(NetError):
    """The input size of a net can't be found: the source is missing and no size was given."""


class DoesNotFitError(CaffeBatchError, MemoryError):
    """Not even a batch of one fits the budget. Exit code 3.

    Attributes:
        missing_bytes: How many bytes the budget lacks at batch_size 1; 0 where Caffe itself ran
            out of memory and nobody told how much there was.
    """

    def __init__(self, message: str, *, missing_bytes: int, hint: str | None = None) -> None:
        self.missing_bytes = missing_bytes
        super().__init__(message, hint=hint)


class TrainingError(CaffeBatchError, RuntimeError):
    """Caffe stopped before the last update. Exit code 4."""


class RuntimeMissingError(CaffeBatchError, RuntimeError):
    """No pycaffe was found, or it can't be installed. Exit code 5."""


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """A hint naming the known words nearest to ``word``, or None if none is near.

    >>> did_you_mean("Convoluton", ["Convolution", "Deconvolution", "Pooling"])
    'Did you mean Convolution or Deconvolution?'
    """
    near = get_close_matches(word, known, n=3, cutoff=0.75)
    near = near or get_close_matches(word, known, n=1, cutoff=0.6)  # short words: tpo, top
    return f"Did you mean {' or '.join(near)}?" if near else None
