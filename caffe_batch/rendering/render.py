"""Renders a template to the text of a net or solver."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from math import inf
from pathlib import Path

from jinja2 import UndefinedError

from caffe_batch import resources
from caffe_batch.errors import CaffeBatchError, Call, InputError, PrototxtError, Text
from caffe_batch.prototxt import parse_net, parse_solver
from caffe_batch.prototxt.files import MAX_TEXT_BYTES
from caffe_batch.rendering.apart import apart
from caffe_batch.rendering.environment import make_environment
from caffe_batch.rendering.find import find_path, folders, is_own
from caffe_batch.rendering.template import Template, describe, name_of
from caffe_batch.rendering.values import Value
from caffe_batch.terminal import UNSAFE

_UNDEFINED = re.compile(r"'(\w+)' is undefined")


def render(
    template: str, settings: Mapping[str, object], *, templates_dir: Path | None = None
) -> str:
    """The text of a net or solver, checked by reading it back as Caffe would.

    Args:
        template: Name or path, see :func:`caffe_batch.rendering.find_path`.
        settings: The variables' values: Python values, or text that is read as the variable's type.
        templates_dir: The user's own templates, searched before the package's.

    Raises:
        InputError: An unknown or missing variable, a wrong value, an error in the template (each
            with the template's name), or a result that is neither a net nor a solver.
    """
    path = find_path(template, templates_dir)
    if is_own(path, templates_dir):
        text = _rendered(path, settings, templates_dir)
    else:
        text = apart(f"template {name_of(path)}", _rendered, path, dict(settings), templates_dir)
    _check(text, name_of(path))
    return text


def _rendered(path: Path, settings: Mapping[str, object], templates_dir: Path | None) -> str:
    """The text that a template makes, in this process."""
    environment = make_environment([path.parent, *folders(templates_dir)])
    found = describe(environment, path)
    values = found.read_settings(settings)
    pieces: list[str] = []
    room = MAX_TEXT_BYTES
    try:
        for piece in environment.get_template(path.name).generate(values):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise InputError(
                    f"template {found.name} makes more than {MAX_TEXT_BYTES} characters"
                )
    except UndefinedError as error:
        raise InputError(
            f"{_place(error, found)}: {error.message}", hint=_missing(error, found, values)
        ) from error
    except RecursionError as error:
        raise InputError(f"template {found.name} is nested too deeply (recursion)") from error
    except CaffeBatchError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # an expression may raise anything
        raise InputError(f"{_place(error, found)}: {error}") from error
    return UNSAFE.sub(_escaped, "".join(pieces))


def _escaped(found: re.Match[str]) -> str:
    """A character that a terminal acts on, as it may stand in a string of a prototxt."""
    return "".join(f"\\{byte:03o}" for byte in found[0].encode())


def render_solver(**settings: object) -> str:
    """The text of a solver; the settings are the variables of ``templates/solver.prototxt.j2``.

    >>> "iter_size: 4" in render_solver(net="net.prototxt", iter_size=4, max_iter=400)
    True

    Raises:
        InputError: As for :func:`render`.
    """
    return render(str(resources.folder("templates") / "solver.prototxt.j2"), settings)


def _place(error: BaseException, template: Template) -> str:
    """The template's name, with the file and line of the error if they are known."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.endswith(".py")  # Jinja2 gives its frames the template's file name
    ]
    if not frames:
        return f"template {template.name}"
    return f"template {template.name} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _missing(error: UndefinedError, template: Template, values: Mapping[str, Value]) -> Text | None:
    """How to set the variable that is missing, and what it means."""
    match = _UNDEFINED.search(error.message or "")
    for variable in template.variables:
        if match and variable.name == match[1] and variable.name not in values:
            about = f" ({variable.description})" if variable.description else ""
            shell, python = f"-D {variable.name}=VALUE", f'define={{"{variable.name}": VALUE}}'
            return ["Give it with ", Call(shell, python), f"{about}."]
    return None


def _check(text: str, template: str) -> None:
    """Reads the text as a net or a solver; raises the error of the attempt that got further."""
    errors: list[PrototxtError] = []
    for parse in (parse_net, parse_solver):
        try:
            parse(text)
        except PrototxtError as error:
            errors.append(error)
        else:
            return
    furthest = max(errors, key=lambda error: (error.line or inf, error.column or inf))
    line = text.splitlines()[furthest.line - 1].strip() if furthest.line else ""
    raise InputError(
        f"template {template} makes a text that Caffe can't read: {furthest.message}: {line!r}",
        hint=furthest.hint,
    ) from furthest
