r"""The comment at the top of a template that says what it is and which variables it takes.

    {#-
    LeNet for the 8x8 handwritten digits.

    Any further text.

    variables:
      batch_size: int = 256             samples of one forward and backward pass (TRAIN)
      data: lmdb | dummy = lmdb         where the samples come from: a database, or
                                        random numbers
      stepsize: int                     updates between two drops
    -#}

The first line is the summary. A variable is indented by two spaces; two or more spaces stand before
its description, which may go on below with a deeper indent. The types are those of
:class:`caffe_batch.rendering.values.Kind`. A variable without a default is required where the
template uses it; ``= ""`` is the empty text or list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from caffe_batch.errors import InputError
from caffe_batch.rendering.values import Kind, Value

_HEADER = re.compile(r"\s*\{#-?(.*?)-?#\}", re.DOTALL)
_VARIABLE = re.compile(
    r"  (?P<name>[a-zA-Z]\w*): (?P<kind>.+?)( = (?P<default>.+?))?(  +(?P<about>.*))?"
)
_CONTINUED = re.compile(r"   +(?P<about>\S.*)")


@dataclass(frozen=True)
class Variable:
    """A variable of a template. ``default`` is None where there is none."""

    name: str
    kind: Kind
    default: Value | None
    description: str


@dataclass(frozen=True)
class Header:
    """What a template says about itself; all empty where it has no header."""

    summary: str
    variables: tuple[Variable, ...]


def parse_header(source: str, template: str) -> Header:
    """The header of a template's source.

    Args:
        source: Text of the template.
        template: Its name, for messages.

    Raises:
        InputError: A line under ``variables:`` isn't a variable, or its default has another type.
    """
    match = _HEADER.match(source)
    if match is None:
        return Header("", ())
    text, _, declarations = match[1].partition("\nvariables:\n")
    variables: list[Variable] = []
    for line in declarations.splitlines():
        if variables and (continued := _CONTINUED.fullmatch(line)):
            last = variables.pop()
            about = f"{last.description} {continued['about'].rstrip()}".lstrip()
            variables.append(Variable(last.name, last.kind, last.default, about))
        elif line.strip():
            variables.append(_parse_variable(line.rstrip(), template))
    return Header(text.strip().partition("\n")[0], tuple(variables))


def _parse_variable(line: str, template: str) -> Variable:
    match = _VARIABLE.fullmatch(line)
    try:
        if match is None:
            raise ValueError
        kind = Kind.parse(match["kind"])
        text = match["default"]
        default = None if text is None else kind.read("" if text == '""' else text)
    except ValueError as error:
        raise InputError(
            f"template {template}: this line of its header is no variable: {line.strip()!r}",
            hint="Write it as `  name: type = default  description`.",
        ) from error
    return Variable(match["name"], kind, default, match["about"] or "")
