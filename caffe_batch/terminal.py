r"""Text for terminals: whatever a file calls its layers, no terminal acts on it.

A name may hold an escape sequence that colours, clears or renames the terminal, or a mark that
turns the direction of the text. Everything that the program prints goes through
:class:`PlainStream`, which writes such characters as JSON does: ``\u001b``. So printed JSON stays
the same JSON.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

#: Control characters but for tab and line feed, separators of lines and paragraphs, and what
#: changes the direction of the text (Unicode's UAX #9). Letters of all scripts are none of them,
#: nor are the joiners that some scripts need.
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""A text with its unsafe characters in the notation of JSON.

    >>> print(visible("\x1b[31mconv1"), visible("größe 名"))
    \u001b[31mconv1 größe 名
    """
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""A name, or a sentence about names, that stays on its line: line feeds and tabs written out.

    >>> print(one_line("conv1\nnote: all is well"))
    conv1\nnote: all is well
    """
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


class PlainStream:
    """A text stream on which nothing but plain text arrives.

    Whoever writes control sequences of its own, as rich does, writes to :attr:`behind`.

    Attributes:
        behind: The stream that it leads to.
        encoding: What it takes; what the stream behind it can't encode is that one's business.
    """

    encoding = "utf-8"

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write a text, with its unsafe characters made visible."""
        self.behind.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Let everything on stdout and stderr be plain text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, PlainStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def behind(stream: TextIO) -> TextIO:
    """The stream that a :class:`PlainStream` leads to; any other stream itself."""
    return stream.behind if isinstance(stream, PlainStream) else stream
