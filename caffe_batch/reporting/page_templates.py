"""The templates of the HTML pages and of the SVG, which lie in ``page/``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

PAGE = Path(__file__).with_name("page")


def page_template(
    name: str, *, finalize: Callable[..., Any] | None = None, **filters: Callable[..., Any]
) -> Template:
    """A template of ``page/``, compiled; what is put into it is escaped.

    Args:
        name: Its file name.
        finalize: What is done to each value before it is put in.
        filters: Its own filters, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
