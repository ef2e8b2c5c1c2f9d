r"""The comment at the top of a template: what the template makes, and the variables it takes.

    {#-
    LeNet for the 8x8 handwritten digits.

    Any further text.

    variables:
      batch_size: int = 256             samples of one forward and backward pass (TRAIN)
      data: lmdb | dummy = lmdb         where the samples come from: a database, or
                                        random numbers
      stepsize: int                     updates between two drops
    -#}

The first line is the summary. A variable is indented by two spaces; its description follows after
two or more spaces and may continue on lines that are indented further. The types are those of
:class:`caffe_batch.rendering.values.VariableType`. A variable without a default is required where
the template uses it; ``= ""`` is the empty text or list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from caffe_batch.errors import InputError
from caffe_batch.rendering.values import Value, VariableType, show

_HEADER = re.compile(r"\s*\{#-?(.*?)-?#\}", re.DOTALL)
_VARIABLE = re.compile(
    r"  (?P<name>[a-zA-Z]\w*): (?P<type>.+?)( = (?P<default>.+?))?(  +(?P<about>.*))?"
)
_CONTINUED = re.compile(r"   +(?P<about>\S.*)")


@dataclass(frozen=True)
class Variable:
    """A variable of a template; ``default`` is None if it has none."""

    name: str
    type: VariableType
    default: Value | None
    description: str

    @property
    def default_text(self) -> str:
        """The default in the notation of prototxt; empty if there is none."""
        return "" if self.default is None else show(self.default)


@dataclass(frozen=True)
class Header:
    """What a template says about itself; empty if it has no header."""

    summary: str
    variables: tuple[Variable, ...]


def parse_header(source: str, template: str) -> Header:
    """The header of a template's source.

    Args:
        source: Text of the template.
        template: Its name, for messages.

    Raises:
        InputError: A line under ``variables:`` isn't a variable, or a default doesn't fit its type.
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
            variables.append(Variable(last.name, last.type, last.default, about))
        elif line.strip():
            variables.append(_parse_variable(line.rstrip(), template))
    return Header(text.strip().partition("\n")[0], tuple(variables))


def _parse_variable(line: str, template: str) -> Variable:
    match = _VARIABLE.fullmatch(line)
    try:
        if match is None:
            raise ValueError
        variable_type = VariableType.parse(match["type"])
        text = match["default"]
        default = None if text is None else variable_type.read("" if text == '""' else text)
    except ValueError as error:
        raise InputError(
            f"template {template}: this line of its header is not a variable: {line.strip()!r}",
            hint="Write it as `  name: type = default  description`.",
        ) from error
    return Variable(match["name"], variable_type, default, match["about"] or "")
