"""The concrete syntax of protobuf's text format: text in, a tree with exact positions out.

The tree knows no message types; :mod:`caffe_batch.prototxt.messages` turns it into a message, and
:mod:`caffe_batch.prototxt.document` uses it to edit the text. The accepted language is that of
Caffe's C++ parser (protobuf's TextFormat), plus a byte-order mark.

Parsing takes one pass and linear time. Positions are offsets into the text; ends are exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from caffe_batch.errors import PrototxtError, Text

#: Depth of nested messages. Caffe's own nest seven levels deep; this limits unknown fields.
MAX_DEPTH = 100

BYTE_ORDER_MARK = "\ufeff"

# White space and comments come first, so that each match is one token and nothing is scanned twice.
_TOKEN = re.compile(
    r"""
    [ \t\n\r\v\f]* (?: \# [^\n\0]* (?: \n [ \t\n\r\v\f]* | \Z | (?=\0) ) )*
    (?: (?P<word>   [A-Za-z_] [A-Za-z0-9_]* )
      | (?P<mark>   [][{}<>:,;-] )
      | (?P<number> (?: 0[xX][0-9A-Fa-f]+
                      | (?: [0-9]+ (?: \.[0-9]* )? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? [fF]? )
                    (?! [0-9A-Za-z_.] ) )
      | (?P<string> " [^"\\\n\0]* (?: \\[^\n\0] [^"\\\n\0]* )* "
                  | ' [^'\\\n\0]* (?: \\[^\n\0] [^'\\\n\0]* )* ' )
      | (?P<end>    \Z )
      | (?P<bad>    [0-9] [0-9A-Za-z_.]* | . )
    )
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPE = re.compile(
    r"""\\(?: (?P<simple> [abfnrtv\\?'"] )
            | (?P<octal>  [0-7]{1,3} )
            | x (?P<hex>  [0-9A-Fa-f]{1,2} )
            | u (?P<pair> [dD][89abAB][0-9A-Fa-f]{2} \\u [dD][c-fC-F][0-9A-Fa-f]{2} )
            | u (?P<unicode> [0-9A-Fa-f]{4} )
            | U (?P<long> 00 (?: 0[0-9A-Fa-f] | 10 ) [0-9A-Fa-f]{4} )
            | (?P<bad>    . )
          )""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file, for messages that name a place in it."""

    text: str
    path: str | None = None

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1; a byte-order mark takes no column."""
        start = self.text.rfind("\n", 0, offset) + 1
        mark = start == 0 and self.text.startswith(BYTE_ORDER_MARK)
        return self.text.count("\n", 0, offset) + 1, offset - start + (not mark)

    def error(self, message: str, offset: int, *, hint: Text | None = None) -> PrototxtError:
        """The error to raise for what is found at an offset."""
        line, column = self.position(offset)
        return PrototxtError(message, path=self.path, line=line, column=column, hint=hint)


@dataclass(slots=True)
class Scalar:
    """A number, string or word.

    Attributes:
        kind: "number", "string" or "word" (true, MAX, inf).
        text: As written, without white space after a minus sign. For strings, their content:
            escapes resolved, adjacent strings joined, bytes that aren't UTF-8 as lone surrogates.
    """

    kind: str
    text: str
    start: int
    end: int


@dataclass(slots=True)
class Field:
    """``name: value``. ``end`` is behind the separator (``,`` or ``;``) if there is one."""

    name: str
    start: int
    end: int
    value: Scalar | Block | Listing


@dataclass(slots=True)
class Block:
    """The fields between two braces, including the braces; or the whole text."""

    start: int
    end: int
    fields: list[Field]


@dataclass(slots=True)
class Listing:
    """``[value, value]``. ``colon``: whether it is preceded by one."""

    start: int
    end: int
    items: list[Scalar | Block]
    colon: bool


def parse(source: Source) -> Block:
    """The tree of a text.

    Raises:
        PrototxtError: A syntax error; the message names line and column.
    """
    return _Parser(source).whole()


class _Parser:
    """Recursive descent over the tokens. ``kind``, ``text``, ``start`` and ``end`` describe the
    current token; ``last`` is the end of the one before.
    """

    __slots__ = ("_tokens", "depth", "end", "kind", "last", "source", "start", "text")

    def __init__(self, source: Source) -> None:
        self.source = source
        self._tokens: Iterator[re.Match[str]] = _TOKEN.finditer(
            source.text, len(BYTE_ORDER_MARK) if source.text.startswith(BYTE_ORDER_MARK) else 0
        )
        self.depth = self.end = 0
        self.advance()

    def advance(self) -> None:
        match = next(self._tokens)
        self.last = self.end
        self.kind = kind = match.lastgroup
        self.text = match[kind]  # type: ignore[index]  # one of the groups always matches
        self.end = match.end()
        self.start = self.end - len(self.text)

    def whole(self) -> Block:
        block = Block(0, len(self.source.text), self.fields())
        if self.kind != "end":
            raise self.unexpected("a field name or the end of the file")
        return block

    def fields(self) -> list[Field]:
        """Fields up to a token that can't begin one: a closing brace, the end, or a mistake."""
        fields = []
        while self.kind == "word":
            name, start = self.text, self.start
            self.advance()
            colon = self.text == ":"
            if colon:
                self.advance()
            value = self.value(name, colon)
            end = value.end
            if self.text == "," or self.text == ";":
                end = self.end
                self.advance()
            fields.append(Field(name, start, end, value))
        return fields

    def value(self, name: str, colon: bool) -> Scalar | Block | Listing:
        if self.text == "{" or self.text == "<":
            return self.block(name)
        if self.text == "[":
            return self.listing(name, colon)
        if not colon:
            raise self.unexpected(f"':' after {name}")
        return self.scalar(name)

    def block(self, name: str) -> Block:
        start, closer = self.start, "}" if self.text == "{" else ">"
        if self.depth == MAX_DEPTH:
            raise self.source.error(f"more than {MAX_DEPTH} nested messages", start)
        self.depth += 1
        self.advance()
        fields = self.fields()
        self.depth -= 1
        if self.text != closer:
            line, _ = self.source.position(start)
            raise self.unexpected(f"a field name or the {closer!r} of {name} (line {line})")
        block = Block(start, self.end, fields)
        self.advance()
        return block

    def listing(self, name: str, colon: bool) -> Listing:
        start = self.start
        items: list[Scalar | Block] = []
        self.advance()
        while self.text != "]" or items:
            if self.text == "{" or self.text == "<":
                items.append(self.block(name))
            else:
                items.append(self.scalar(name))
            if self.text == "]":
                break
            if self.text != ",":
                raise self.unexpected(f"',' or ']' in the list of {name}")
            self.advance()
        listing = Listing(start, self.end, items, colon)
        self.advance()
        return listing

    def scalar(self, name: str) -> Scalar:
        kind, text, start = self.kind, self.text, self.start
        if kind == "number" or kind == "word":
            self.advance()
            return Scalar(kind, text, start, self.last)
        if kind == "string":
            pieces = []
            while self.kind == "string":
                pieces.append((self.text, self.start))
                self.advance()
            return Scalar("string", self.join(pieces), start, self.last)
        if text == "-":
            self.advance()
            kind, text = self.kind, self.text
            if kind == "number" or (kind == "word" and text.lower() in _NUMBER_WORDS):
                self.advance()
                return Scalar(kind, "-" + text, start, self.last)
            raise self.unexpected("a number after '-'")
        raise self.unexpected(f"a value of {name}")

    def join(self, pieces: list[tuple[str, int]]) -> str:
        """The content of adjacent strings. A character's escapes may be spread over two of them."""
        if not any("\\" in piece for piece, _ in pieces):
            return "".join(piece[1:-1] for piece, _ in pieces)
        data = bytearray()
        for piece, start in pieces:
            done = 1
            for match in _ESCAPE.finditer(piece, 1, len(piece) - 1):
                if match["bad"]:
                    raise self.source.error(
                        f"unknown escape {match[0]!r} in a string",
                        start + match.start(),
                        hint=r"Write a backslash as \\.",
                    )
                data += piece[done : match.start()].encode("utf-8", "surrogateescape")
                data += _escaped_bytes(match)
                done = match.end()
            data += piece[done:-1].encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "surrogateescape")

    def unexpected(self, expected: str) -> PrototxtError:
        """The error for a token in the wrong place, with a hint about common mistakes."""
        found, hint = repr(brief(self.text)), None
        if self.kind == "end":
            found = "the end of the file"
        elif self.kind == "bad":
            if self.text in "\"'":
                found = "a string that is not closed on its line"
            elif self.text[0].isdigit():
                found = f"the malformed number {brief(self.text)}"
            elif not self.text.isascii():
                found += f" (U+{ord(self.text):04X})"
                hint = "Only strings and comments may contain non-ASCII characters."
            elif self.text == "=":
                hint = "Write name: value."
            elif self.text in "/*":
                hint = "A comment starts with #."
        elif self.text == "[":
            hint = "Caffe's messages have no extensions."
        return self.source.error(f"expected {expected}, found {found}", self.start, hint=hint)


_NUMBER_WORDS = ("inf", "infinity", "nan")


def brief(text: str) -> str:
    """A text for use in a message: all of it, or its beginning if it is long."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _escaped_bytes(match: re.Match[str]) -> bytes:
    """The bytes an escape stands for. Octal values wrap at 256, as in C++."""
    kind = match.lastgroup
    if kind == "simple":
        letter = match["simple"]
        return bytes([_SIMPLE.get(letter, ord(letter))])
    if kind == "octal":
        return bytes([int(match["octal"], 8) & 255])
    if kind == "hex":
        return bytes([int(match["hex"], 16)])
    if kind == "pair":
        high, low = int(match["pair"][:4], 16), int(match["pair"][-4:], 16)
        return chr(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF)).encode()
    return chr(int(match[kind], 16)).encode("utf-8", "surrogatepass")  # type: ignore[index]
