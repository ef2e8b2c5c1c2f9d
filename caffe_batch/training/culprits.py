"""After a failure: the layer, the file and the line that an engine's message doesn't name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.net.data.check import check_data
from caffe_batch.net.data.listing import lines_named_in
from caffe_batch.net.recipe import Recipe
from caffe_batch.net.sources import Sources, is_list, source_of

#: The endings that the data or a layer's code may have caused.
_ASKED = (EndReason.CHECK_FAILED, EndReason.CRASHED, EndReason.PYTHON_ERROR)


def with_culprits(ending: Ending, recipe: Recipe, sources: Sources) -> Ending:
    """An ending whose detail also says where in the nets or their data the fault is.

    Args:
        ending: How a worker ended.
        recipe: What it trained.
        sources: Where its data is found.
    """
    if ending.reason not in _ASKED:
        return ending
    faults = _faults(recipe, sources)
    named = [
        said for where, said in _named(recipe, sources, ending.detail)
        if not any(place in fault for place in where for fault in faults)
    ]  # fmt: skip
    return replace(ending, detail="; ".join(dict.fromkeys([ending.detail, *named, *faults])))


def _named(recipe: Recipe, sources: Sources, message: str) -> Iterator[tuple[list[str], str]]:
    """The lines of lists, and the Python layers, whose files a message names.

    Yields:
        How a finding of the data check would write the place, and a clause about it.
    """
    for file in (recipe.train, *recipe.tests):
        for _, layer in file.selected():
            module = f"/{layer.python_param.module.replace('.', '/')}.py:"
            if layer.HasField("python_param") and module in message:
                yield [], f"that is the code of layer {layer.name!r}"
        for _, layer, rule in file.known():
            if not is_list(rule):
                continue
            source = source_of(layer, rule)
            try:
                lines = lines_named_in(message, sources.find(source))
            except (InputError, OSError):
                continue
            for line in lines:
                places = [f"{source}:{line}:", f"line {line} of {source}:"]
                yield places, f"layer {layer.name!r} reads it from line {line} of {source}"


def _faults(recipe: Recipe, sources: Sources) -> list[str]:
    """The errors that a quick look at the data finds; if they name no place, also the remarks."""
    try:
        report = check_data(recipe, sources, allow_unknown=True)
    except (CaffeBatchError, OSError):
        return []
    placed = any(each.place for each in report.errors)
    return [each.sentence() for each in (report.errors if placed else report.findings)]
