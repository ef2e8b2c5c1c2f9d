"""A template and the variables it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, meta, nodes

from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.rendering.header import TemplateRecipe, Variable, parse_header
from caffe_batch.rendering.values import Value, VariableType, show

#: Endings of the file names of templates; the rest is the template's name.
SUFFIXES = (".prototxt.j2", ".j2")

_ANY = VariableType("any")


@dataclass(frozen=True)
class Template:
    """A template and what it takes.

    Attributes:
        name: Its name on the command line: the file name without the suffix.
        path: Its file.
        summary: What it makes, in one line; empty if the template has no header.
        recipe: The solver that it is meant for; None if no header gives one.
        variables: Those of its header, then those of the templates that it includes, extends or
            imports, except the ones it sets for them; then those it uses without documenting
            them, which have any type and no default.
    """

    name: str
    path: Path
    summary: str
    variables: tuple[Variable, ...]
    recipe: TemplateRecipe | None = None

    def read_settings(self, settings: Mapping[str, object]) -> dict[str, Value]:
        """The variables' values: those given, read as the variable's type, else the defaults.

        Raises:
            InputError: The template has no such variable, or a value has the wrong type.
        """
        known = {variable.name: variable for variable in self.variables}
        values = {name: v.default for name, v in known.items() if v.default is not None}
        for name, value in settings.items():
            if name not in known:
                names = f"Its variables are {', '.join(known)}." if known else "It takes none."
                raise InputError(
                    f"template {self.name} has no variable {name!r}",
                    hint=did_you_mean(name, list(known)) or names,
                )
            expected = known[name].type
            try:
                values[name] = expected.read(value)
            except ValueError as error:
                raise InputError(
                    f"template {self.name}: {name} takes {expected}, not {value!r}",
                    hint=did_you_mean(str(value), [show(choice) for choice in expected.choices]),
                ) from error
        return values


def name_of(path: Path) -> str:
    """The name of the template in a file.

    >>> name_of(Path("templates/resnet50.prototxt.j2"))
    'resnet50'
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def describe(environment: Environment, path: Path) -> Template:
    """The template in a file that ``environment`` finds by its file name.

    Raises:
        InputError: It, or a template it refers to, is missing, isn't text, or has a syntax error.
    """
    name = name_of(path)
    summary = ""
    recipe: TemplateRecipe | None = None
    variables: dict[str, Variable] = {}
    used: set[str] = set()
    for file, source, tree, provided in _parts(environment, path.name, frozenset(), set()):
        header = parse_header(source, file)
        if file == path.name:
            summary = header.summary
        recipe = recipe or header.recipe
        for variable in header.variables:
            if variable.name not in provided:
                variables.setdefault(variable.name, variable)
        used |= meta.find_undeclared_variables(tree) - provided
    for undocumented in sorted(used - variables.keys()):
        variables[undocumented] = Variable(undocumented, _ANY, None, "")
    return Template(name, path, summary, tuple(variables.values()), recipe)


_Part = tuple[str, str, nodes.Template, frozenset[str]]


def _parts(
    environment: Environment, file: str, provided: frozenset[str], seen: set[str]
) -> Iterator[_Part]:
    """A template and all it refers to: file name, source, tree, variables set for each."""
    seen.add(file)
    source = read_source(environment, file)
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise InputError(f"template {file}, line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise InputError(f"template {file} is nested too deeply (recursion)") from error
    yield file, source, tree, provided
    targets = [node.target for node in tree.body if isinstance(node, nodes.Assign)]
    provided |= {target.name for target in targets if isinstance(target, nodes.Name)}
    for reference in meta.find_referenced_templates(tree):
        if reference is not None and reference not in seen:
            yield from _parts(environment, reference, provided, seen)


def read_source(environment: Environment, file: str) -> str:
    """The text of a template.

    Raises:
        InputError: It isn't in the environment's folders, or it isn't UTF-8.
    """
    if environment.loader is None:
        raise ValueError("the environment has no folders")
    try:
        return environment.loader.get_source(environment, file)[0]
    except TemplateNotFound as error:
        raise InputError(
            f"template {file}: there is no such file, neither beside the template that refers to "
            "it nor among the templates"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"template {file} is not UTF-8 text") from error
