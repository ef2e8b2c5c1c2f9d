"""The Jinja2 environment in which templates are rendered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from google.protobuf.text_encoding import CEscape
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateRuntimeError
from jinja2.sandbox import SandboxedEnvironment

from caffe_batch.rendering.values import show


def make_environment(folders: Sequence[Path]) -> Environment:
    """The environment for templates in ``folders``; the first folder that has a name wins.

    Templates may use, besides what Jinja2 offers:
        {{ value }}: writes booleans as true and false, and lists with commas, as prototxt does.
        {{ text | quote }}: writes a prototxt string, including the quotes.
        {{ fail("what is wrong") }}: stops with that message.

    It is sandboxed: templates have no access to files or to Python. How long they take is bounded
    elsewhere (:mod:`caffe_batch.rendering.apart`).
    """
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.filters["quote"] = quote
    environment.globals["fail"] = _fail
    return environment


def quote(value: object) -> str:
    r"""A value as a string in prototxt syntax.

    >>> print(quote('digits "train" lmdb'), quote(5), quote(True))
    "digits \"train\" lmdb" "5" "true"
    """
    text = str(_finalize(value))
    escaped = CEscape(text, as_utf8=True)  # type: ignore[arg-type]  # str is what keeps UTF-8
    return f'"{escaped}"'


def _finalize(value: object) -> object:
    return show(value) if isinstance(value, bool | tuple) else value


def _fail(message: str) -> NoReturn:
    raise TemplateRuntimeError(message)
