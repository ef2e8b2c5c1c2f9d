"""A template and the variables that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, meta, nodes

from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.rendering.header import Variable, parse_header
from caffe_batch.rendering.values import Kind, Value, show

#: How the file names of templates end; what stands before is the template's name.
SUFFIXES = (".prototxt.j2", ".j2")

_ANY = Kind("any")


@dataclass(frozen=True)
class Template:
    """A template and what it takes.

    Attributes:
        name: What it is called on the command line: its file name without the suffix.
        path: Its file.
        summary: What it makes, in one line; empty where the template has no header.
        variables: Those of its header, then those of the templates that it includes, extends or
            imports, except what it sets for them; then those used without documentation, of any
            type and without a default.
    """

    name: str
    path: Path
    summary: str
    variables: tuple[Variable, ...]

    def read_settings(self, settings: Mapping[str, object]) -> dict[str, Value]:
        """The variables' values: what is given, read as the variable's type, else the defaults.

        Raises:
            InputError: A name that the template doesn't know, or a value of another type.
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
            kind = known[name].kind
            try:
                values[name] = kind.read(value)
            except ValueError as error:
                raise InputError(
                    f"template {self.name}: {name} takes {kind}, not {value!r}",
                    hint=did_you_mean(str(value), [show(choice) for choice in kind.choices]),
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
        InputError: It, or a template that it refers to, is missing, no text, or has a syntax error.
    """
    name = name_of(path)
    summary = ""
    variables: dict[str, Variable] = {}
    used: set[str] = set()
    for file, source, tree, provided in _parts(environment, path.name, frozenset(), set()):
        header = parse_header(source, file)
        if file == path.name:
            summary = header.summary
        for variable in header.variables:
            if variable.name not in provided:
                variables.setdefault(variable.name, variable)
        used |= meta.find_undeclared_variables(tree) - provided
    for undocumented in sorted(used - variables.keys()):
        variables[undocumented] = Variable(undocumented, _ANY, None, "")
    return Template(name, path, summary, tuple(variables.values()))


_Part = tuple[str, str, nodes.Template, frozenset[str]]


def _parts(
    environment: Environment, file: str, provided: frozenset[str], seen: set[str]
) -> Iterator[_Part]:
    """A template and all that it refers to: file name, source, tree, variables set for it."""
    seen.add(file)
    source = read_source(environment, file)
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise InputError(f"template {file}, line {error.lineno}: {error.message}") from error
    yield file, source, tree, provided
    targets = [node.target for node in tree.body if isinstance(node, nodes.Assign)]
    provided |= {target.name for target in targets if isinstance(target, nodes.Name)}
    for reference in meta.find_referenced_templates(tree):
        if reference is not None and reference not in seen:
            yield from _parts(environment, reference, provided, seen)


def read_source(environment: Environment, file: str) -> str:
    """The text of a template.

    Raises:
        InputError: The environment's folders don't have it, or it is not UTF-8.
    """
    if environment.loader is None:
        raise ValueError("the environment has no folders")
    try:
        return environment.loader.get_source(environment, file)[0]
    except TemplateNotFound as error:
        raise InputError(
            f"template {file}: there is no such file beside the template that refers to it, "
            "nor among the templates"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"template {file} is not a text in UTF-8") from error
