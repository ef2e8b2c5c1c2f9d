"""``caffe-batch render``: a net or solver from a template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import json_option, print_json, warnings_on_stderr
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.rendering import Template, Variable


@click.command()
@click.argument("template", required=False)
@click.option(
    "-D",
    "--define",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a variable of the template; separate list items by commas. May be repeated.",
)
@click.option(
    "--templates",
    "templates_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A directory with your own templates, searched before caffe-batch's.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE, completely or not at all.  [default: stdout]",
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="DIR",
    help="A data set made by `caffe-batch data`, which sets sources, classes, means and crop.",
)
@click.option("--list", "list_templates", is_flag=True, help="List the templates and exit.")
@click.option("--variables", is_flag=True, help="Describe TEMPLATE's variables and exit.")
@json_option
def render(
    template: str | None,
    assignments: Sequence[str],
    templates_dir: Path | None,
    data: str | None,
    output: Path | None,
    list_templates: bool,
    variables: bool,
    as_json: bool,
) -> None:
    """Render a net or solver from TEMPLATE.

    TEMPLATE is a name from --list, or the path of a Jinja2 file. A missing or unknown variable is
    an error, and so is a result that Caffe couldn't read.
    """
    from caffe_batch import api, files

    if list_templates:
        _print_list(api.templates(templates_dir), as_json)
        return
    if template is None:
        raise InputError("render needs a TEMPLATE", hint="`caffe-batch render --list` names them.")
    if variables:
        _print_variables(api.find_template(template, templates=templates_dir), as_json)
        return
    if as_json:
        raise InputError("--json needs --list or --variables; a template renders to prototxt")
    settings = read_assignments(assignments)
    with warnings_on_stderr():
        text = api.render(template, settings, templates=templates_dir, data=data)
    if output is None:
        click.echo(text, nl=False)
        return
    files.write_text(output, text)
    click.echo(f"wrote {output}", err=True)


def read_assignments(texts: Sequence[str]) -> dict[str, str]:
    """The values by name, from strings of the form ``NAME=VALUE``.

    Raises:
        InputError: A string has another form, or a name occurs twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(
                f"-D {text!r} is not of the form NAME=VALUE", hint="For example -D batch_size=64."
            )
        if name in values:
            raise InputError(
                f"-D sets {name} twice", hint="Give it once; separate list items by commas."
            )
        values[name] = value
    return values


def _print_list(templates: Sequence[Template], as_json: bool) -> None:
    if as_json:
        print_json([{"name": t.name, "path": str(t.path), "summary": t.summary} for t in templates])
    else:
        _print_columns([(t.name, t.summary or str(t.path)) for t in templates])


def _print_variables(template: Template, as_json: bool) -> None:
    if as_json:
        print_json([_variable_json(variable) for variable in template.variables])
        return
    click.echo(f"{template.name}: {template.summary}\n" if template.summary else template.name)
    _print_columns([_variable_row(variable) for variable in template.variables])


def _variable_json(variable: Variable) -> dict[str, object]:
    return {
        "name": variable.name,
        "type": str(variable.type),
        "choices": list(variable.type.choices),
        "default": variable.default,
        "description": variable.description,
    }


def _variable_row(variable: Variable) -> tuple[str, str]:
    default = "" if variable.default is None else f" = {variable.default_text}"
    return f"{variable.name}{default}", f"{variable.description} [{variable.type}]".lstrip()


def _print_columns(rows: Sequence[tuple[str, str]]) -> None:
    formatter = click.HelpFormatter()
    if rows:
        formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)
