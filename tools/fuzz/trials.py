"""A trial: hostile files, and calls of the program that have to end well whatever is in them.

A call ends well if it has one of the program's exit codes, says why where that isn't 0, prints no
traceback and nothing that a terminal acts on, and JSON where JSON was asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from caffe_batch import runtimes
from caffe_batch.cli.main import EXIT_CODES, main
from caffe_batch.reporting import loss_plot
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.terminal import UNSAFE

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden" / "0.1.0"

#: A worker that dies at once, with a reason that holds an escape sequence.
_WORKER = (
    r"""printf 'F1127 10:00:00.000001 7 x.cpp:1] Check failed: \033[31m no \r\n' >&2; exit 1"""
)


@dataclass(frozen=True)
class Trial:
    """Files and calls; the calls follow one another in the folder of the files.

    Attributes:
        calls: The arguments of each.
        files: Contents by path in the folder; a path may lead into ``job``.
        job: The golden job that lies in ``job``, or None.
        special: What isn't a file, by path: ``fifo``, ``folder``, or the target of a link.
        environment: Variables that are set.
        drawn: Whether plots are drawn where the program does; they take most of the time.
    """

    calls: tuple[tuple[str, ...], ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    job: str | None = None
    special: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    drawn: bool = False

    def json(self) -> dict[str, Any]:
        """For a file of the corpus: bytes as text of the same code points."""
        return {
            "calls": [list(call) for call in self.calls],
            "files": {name: content.decode("latin-1") for name, content in self.files.items()},
            "job": self.job,
            "special": dict(self.special),
            "environment": dict(self.environment),
            "drawn": self.drawn,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Trial:
        """A trial that :meth:`json` wrote; keys may be missing."""
        files = {name: text.encode("latin-1") for name, text in content.get("files", {}).items()}
        calls = tuple(tuple(call) for call in content["calls"])
        return cls(**{**content, "calls": calls, "files": files})

    def write(self, folder: Path) -> None:
        """Make the files in an empty folder."""
        if self.job:
            shutil.copytree(GOLDEN / self.job, folder / "job")
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, what in self.special.items():
            path = folder / name
            path.unlink(missing_ok=True)
            if what == "fifo":
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            else:
                path.symlink_to(what)


@dataclass(frozen=True)
class Fault:
    """A call that didn't end well, and what is wrong with it."""

    call: tuple[str, ...]
    what: str


class _Dying(Interpreter):
    """A runtime whose worker has no Caffe, and dies."""

    def command(self, args: Any) -> list[str]:
        return ["/bin/sh", "-c", _WORKER]


def faults(trial: Trial, folder: Path) -> Iterator[Fault]:
    """Run a trial in an empty folder; yields what is wrong with its calls."""
    trial.write(folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.ExitStack() as patched:
            patched.enter_context(mock.patch.dict(os.environ, trial.environment))
            find = mock.patch.object(runtimes, "find", return_value=_Dying("nothing"))
            patched.enter_context(find)
            if not trial.drawn:
                patched.enter_context(mock.patch.object(loss_plot, "write_loss_plot"))
            for call in trial.calls:
                yield from (Fault(call, what) for what in _wrong(call))
    finally:
        os.chdir(before)


def _wrong(call: tuple[str, ...]) -> Iterator[str]:
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            main(list(call))
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    except BaseException:  # whatever it is: it is what the fuzzer is for
        yield traceback.format_exc()
        return
    yield from _wrong_ending(call, code, out.getvalue(), err.getvalue())


def _wrong_ending(call: tuple[str, ...], code: object, out: str, err: str) -> Iterator[str]:
    if code not in {0, *EXIT_CODES.values()}:
        yield f"exit code {code}: {err}"
    if code and not err.strip():
        yield f"exit code {code} without a message"
    for stream, text in (("stdout", out), ("stderr", err)):
        if "Traceback (most recent call last)" in text:
            yield f"a traceback on {stream}: {text}"
        raw = UNSAFE.search(text)
        if raw:
            around = text[max(0, raw.start() - 60) : raw.end() + 20]
            yield f"{raw[0]!r} reaches {stream}: {around!r}"
    if code == 0 and "--json" in call:
        try:
            json.loads(out, parse_constant=_refused)
        except ValueError as error:
            yield f"no JSON ({error}): {out[:200]!r}"


def _refused(word: str) -> None:
    raise ValueError(f"JSON has no {word}")
