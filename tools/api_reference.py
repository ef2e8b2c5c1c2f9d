"""docs/api.md: the public names of the package, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import caffe_batch

HEAD = """\
# Python reference

What `import caffe_batch as cb` has; `tools/check_docs.py --write` makes this page from the
docstrings, whose examples `make check` runs.

    import caffe_batch as cb

    plan = cb.plan("solver.prototxt", effective_batch=256, gpu_memory="8GiB")
    job = plan.write("job")
    outcome = job.train()
    job.report("report.html")

- Arguments have the names and the defaults of the command line's options, and take their spellings
  (`"8GiB"`, `"80%"`, `"auto"`, `"5%"`) as well as Python's numbers: bytes, shares of one.
- Names that end in `_bytes` are integers, names that end in `_s` are seconds, shapes are tuples in
  Caffe's order N, C, H, W.
- Nothing is printed. Progress goes to an `observer`; what there is to know of the files is in
  `file_notes` and in Python warnings, what there is to know of a result is in its `notes`.
- Every error is a `CaffeBatchError`. `error.message` says what is wrong, `error.hint` what to try,
  and `error.remedies` names the arguments to change, each with a `name` and a `value`.
- In a notebook a plan, a memory and the outcome of a training are shown as tables and curves.
"""

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")
_ROLE = re.compile(r":(?:func|meth|class|mod|attr|data):`~?([^`]*)`")


def api_reference() -> str:
    """The page."""
    names = sorted(caffe_batch.__all__, key=lambda name: (_rank(getattr(caffe_batch, name)), name))
    parts = [HEAD.rstrip()]
    for name in names:
        parts += _described(name, getattr(caffe_batch, name))
    return "\n\n".join(parts) + "\n"


def _rank(value: Any) -> int:
    """Functions first, then what they return, then errors."""
    if not inspect.isclass(value):
        return 0
    return 2 if issubclass(value, Exception) else 1


def _described(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        function = caffe_batch.api.memory if name == "memory" else value
        yield f"## `cb.{name}`"
        yield _signature(f"cb.{name}", function)
        yield _prose(function)
        return
    yield f"## `cb.{name}`"
    yield _prose(value)
    if issubclass(value, Exception):
        return
    for member, own in vars(value).items():
        if member.startswith("_"):
            continue
        if isinstance(own, property):
            yield f"### `{name}.{member}`"
            yield _prose(own)
        elif inspect.isfunction(own):
            yield f"### `{name}.{member}`"
            yield _signature(member, own)
            yield _prose(own)


def _signature(name: str, function: Any) -> str:
    """The call as Python has it, one argument a line where there are several."""
    found = inspect.signature(function)
    arguments = [each for each in found.parameters.values() if each.name != "self"]
    lines: list[str] = []
    keywords = False
    for each in arguments:
        if each.kind is each.KEYWORD_ONLY and not keywords:
            lines.append("*")
            keywords = True
        stars = "**" if each.kind is each.VAR_KEYWORD else ""
        lines.append(f"{stars}{each.name}: {each.annotation}{_default(each)}")
    inside = (
        "".join(f"\n    {line}," for line in lines) + "\n" if len(lines) > 1 else ", ".join(lines)
    )
    return f"```python\n{name}({inside}) -> {found.return_annotation}\n```"


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return ""
    plain = not callable(parameter.default)
    return f" = {parameter.default!r}" if plain else " = ..."


def _prose(value: Any) -> str:
    """A docstring as Markdown: sections as lists, examples as code."""
    out: list[str] = []
    example = in_section = False
    for line in (inspect.getdoc(value) or "").splitlines():
        section = _SECTION.fullmatch(line)
        begins = line.startswith(">>> ")
        if example and not line:
            out.append("```")
            example = False
        if begins and not example:
            out.append("```python")
            example = True
        if example:
            out.append(line.replace("  # doctest: +SKIP", ""))
        elif section:
            in_section = True
            out += [f"**{section[1]}**", ""]
        elif in_section:
            out.append(_text(_entry(line)))
        else:
            out.append(_text(line))
    return "\n".join([*out, "```"] if example else out).rstrip()


def _entry(line: str) -> str:
    """A line of a section: each argument is an entry of a list."""
    first = re.fullmatch(r" {4}([\w, ]+): (.*)", line)
    if first:
        return f"- `{first[1]}`: {first[2]}"
    return line.replace("        ", "  ", 1) if line.startswith("        ") else line.strip()


def _text(line: str) -> str:
    return _ROLE.sub(r"`\1`", line).replace("``", "`")
