r"""The comment at the top of a template: what the template makes, and the variables it takes.

    {#-
    LeNet for the 8x8 handwritten digits.

    Any further text.

    recipe: where it comes from
      epochs = 90                       any remark
      records = 60000
      stepvalue_epochs = 30, 60
      base_lr = 0.1

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

The recipe is the solver that a net is meant for: how many epochs of how many records its paper
trains, and variables of ``templates/solver.prototxt.j2``. Those that count updates may be given in
epochs, as ``NAME_epochs``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from caffe_batch.errors import InputError
from caffe_batch.rendering.values import Value, VariableType, show

_HEADER = re.compile(r"\s*\{#-?(.*?)-?#\}", re.DOTALL)
_VARIABLE = re.compile(
    r"  (?P<name>[a-zA-Z]\w*): (?P<type>.+?)( = (?P<default>.+?))?(  +(?P<about>.*))?"
)
_SETTING = re.compile(r"  (?P<name>[a-z]\w*) = (?P<value>\S.*?)(  +.*)?")
_IN_EPOCHS = "_epochs"
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
class TemplateRecipe:
    """The solver that a net is meant for, whatever data it is trained on.

    Attributes:
        source: Where it comes from, in words.
        epochs: How long to train.
        records: Samples of the training data that it was made for.
        settings: Variables of the solver's template, as text.
        in_epochs: Variables of the solver's template that count updates, in epochs.
    """

    source: str
    epochs: float
    records: int
    settings: Mapping[str, str]
    in_epochs: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Header:
    """What a template says about itself; empty if it has no header."""

    summary: str
    variables: tuple[Variable, ...]
    recipe: TemplateRecipe | None = None


def parse_header(source: str, template: str) -> Header:
    """The header of a template's source.

    Args:
        source: Text of the template.
        template: Its name, for messages.

    Raises:
        InputError: A line under ``variables:`` isn't a variable, a default doesn't fit its type, or
            a line under ``recipe:`` isn't a setting.
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
    text, _, recipe = text.partition("\nrecipe: ")
    summary = text.strip().partition("\n")[0]
    return Header(summary, tuple(variables), _parse_recipe(recipe, template) if recipe else None)


def _parse_recipe(text: str, template: str) -> TemplateRecipe:
    source, *lines = text.rstrip().splitlines()
    settings: dict[str, str] = {}
    for line in lines:
        match = _SETTING.fullmatch(line.rstrip())
        if match is None:
            raise InputError(
                f"template {template}: this line of its recipe is no setting: {line.strip()!r}",
                hint="Write it as `  name = value  remark`.",
            )
        settings[match["name"]] = match["value"]
    try:
        epochs, records = float(settings.pop("epochs")), int(settings.pop("records"))
        in_epochs = {
            name.removesuffix(_IN_EPOCHS): tuple(map(float, settings.pop(name).split(",")))
            for name in [*settings]
            if name.endswith(_IN_EPOCHS)
        }
    except (KeyError, ValueError) as error:
        raise InputError(
            f"template {template}: its recipe needs numbers for epochs and records"
        ) from error
    return TemplateRecipe(source.strip(), epochs, records, settings, in_epochs)


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
