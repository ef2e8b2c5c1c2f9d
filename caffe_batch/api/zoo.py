"""``template_sizes``: what each template is for, and the memory that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch.api.predictions import memory
from caffe_batch.api.rendered import templates as available
from caffe_batch.errors import InputError
from caffe_batch.rendering import Template, render

#: The TRAIN batch sizes whose memory is predicted.
BATCH_SIZES = (1, 32)


@dataclass(frozen=True)
class TemplateSize:
    """A template, and what its net needs with the defaults.

    Attributes:
        template: The template.
        parameters: Number of learned values; None if it isn't a net, or can't be built without
            data.
        peak_bytes: Device memory in training by TRAIN batch size, in bytes, with plain SGD
            and without a test net; empty where ``parameters`` is None.
    """

    template: Template
    parameters: int | None = None
    peak_bytes: dict[int, int] | None = None

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch templates list``, for one template."""
        recipe = self.template.recipe
        return {
            "name": self.template.name,
            "summary": self.template.summary,
            "path": str(self.template.path),
            "parameters": self.parameters,
            "memory_bytes": {str(size): peak for size, peak in (self.peak_bytes or {}).items()},
            "recipe": recipe and recipe.source,
            "epochs": recipe and recipe.epochs,
        }


def template_sizes(
    templates: str | Path | None = None, *, progress: Callable[[int, int], object] | None = None
) -> list[TemplateSize]:
    """The available templates, with the parameters and the memory of their nets.

    >>> import caffe_batch as cb
    >>> sizes = {size.template.name: size for size in cb.template_sizes()}  # doctest: +SKIP
    >>> sizes["resnet50"].parameters, sizes["solver"].parameters  # doctest: +SKIP
    (25557032, None)

    Args:
        templates: A folder of your own templates, listed before those of the package.
        progress: Called after each template with how many are done and how many there are.

    Raises:
        InputError: The folder doesn't exist, or a template has a mistake in its header.
    """
    return list(_sizes(available(templates), templates, progress or (lambda *_: None)))


def _sizes(
    found: list[Template], templates: str | Path | None, progress: Callable[[int, int], object]
) -> Iterator[TemplateSize]:
    folder = None if templates is None else Path(templates)
    for number, template in enumerate(found, 1):
        names = {variable.name for variable in template.variables}
        size = TemplateSize(template)
        if "data" in names and template.recipe:
            with suppress(InputError):  # a user's template that needs more
                size = _size(template, folder)
        progress(number, len(found))
        yield size


def _size(template: Template, folder: Path | None) -> TemplateSize:
    """What a net needs when it is fed with random numbers."""
    text = render(str(template.path), {"data": "dummy"}, templates_dir=folder)
    with TemporaryDirectory(prefix="caffe-batch-") as where:
        net = Path(where) / "net.prototxt"
        net.write_text(text, encoding="utf-8")
        found = memory(net)
        peaks = found.at(BATCH_SIZES)
    return TemplateSize(
        template,
        sum(prod(each.shape) for each in found.train.learned),
        {size: peak for size, peak in peaks.items() if isinstance(peak, int)},
    )
