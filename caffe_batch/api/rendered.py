"""``render``: a net or solver from a template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from caffe_batch import rendering
from caffe_batch.api.filling import filled_in
from caffe_batch.rendering import Template


def render(
    template: str | Path,
    define: Mapping[str, object] | None = None,
    *,
    templates: str | Path | None = None,
    data: str | Path | None = None,
) -> str:
    """Render a net or solver from a template.

    >>> import caffe_batch as cb
    >>> text = cb.render("lenet_digits", {"batch_size": 32})
    >>> "batch_size: 32" in text
    True

    Args:
        template: A name that :func:`templates` lists, or the path of a Jinja2 file.
        define: Values of the template's variables, as Python values or as text.
        templates: A folder of your own templates, searched before those of the package.
        data: A data set made by :func:`data`, which sets sources, classes, means and crop;
            ``define`` overrides it.

    Raises:
        InputError: There is no such template or data set, a variable is missing, unknown or has a
            wrong value, or Caffe couldn't read the result.
    """
    values = dict(define or {})
    if data is not None:
        values = {**filled_in(find_template(template, templates=templates), data), **values}
    return rendering.render(str(template), values, templates_dir=_folder(templates))


def templates(templates: str | Path | None = None) -> list[Template]:
    """The available templates, each with its ``name``, ``summary`` and ``variables``.

    >>> import caffe_batch as cb
    >>> [template.name for template in cb.templates()][:2]
    ['alexnet', 'autoencoder']

    Args:
        templates: A folder of your own templates, listed before those of the package.

    Raises:
        InputError: The folder doesn't exist, or a template has a mistake in its header.
    """
    return list(rendering.available(_folder(templates)))


def find_template(template: str | Path, *, templates: str | Path | None = None) -> Template:
    """One template, by its name or its path.

    Raises:
        InputError: There is none, or it has a mistake in its header.
    """
    return rendering.find(str(template), _folder(templates))


def _folder(templates: str | Path | None) -> Path | None:
    return None if templates is None else Path(templates)
