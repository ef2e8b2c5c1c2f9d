"""Hostile job directories: golden ones, with one to three of their files changed."""

from __future__ import annotations

import json
import random

from tests.jobs.damage import as_text, mutated
from tools.fuzz.nets import draw_net
from tools.fuzz.trials import GOLDEN, Trial
from tools.fuzz.words import NAMES, VALUES

_JOBS = ("finished", "interrupted", "growing", "resplit")
#: Files that most of a job hangs on; each of the others is as likely as one of these.
_FREQUENT = ("plan.json", "job.json", "metrics.jsonl", "plan.json", "job.json", "metrics.jsonl",
             "solver.prototxt", "net.prototxt", "caffe.log")  # fmt: skip
_CALLS = (
    ("status", "job"),
    ("status", "job", "--json"),
    ("report", "job", "--out", "report.html"),
    ("stop", "job", "--timeout", "0"),
    ("train", "job", "--follow"),
    ("train", "job"),
)

#: Contents of the journal, of the lock, and of any file.
_JOURNALS = (b"{", b"[]", b'{"net.prototxt": 1}', b'{"../x": ""}', b'{"a\\ud800": ""}')
_LOCKS = (b"", b"1", b"-1", b"999999999999", b"x", b"\xff", b"0")
_CONTENTS = (b"", b"\0" * 99, b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"1e999")


def draw_job(seed: int) -> Trial:
    """The trial of a seed."""
    draw = random.Random(f"job {seed}")  # noqa: S311  # the same from the same seed
    job = draw.choice(_JOBS)
    names = sorted(
        str(path.relative_to(GOLDEN / job)) for path in (GOLDEN / job).rglob("*") if path.is_file()
    )
    files: dict[str, bytes] = {}
    special: dict[str, str] = {}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name = draw.choice([*_FREQUENT, *names])
        where = f"job/{name}"
        if where in special:
            continue
        if draw.random() < 0.02:
            files.pop(where, None)
            special[where] = draw.choice(("fifo", "/dev/zero", "/dev/null", where, "../victim"))
            continue
        content = files.get(where) or (GOLDEN / job / name).read_bytes()
        files[where] = _changed(draw, name, content, seed)
    if draw.random() < 0.05:
        files["job/.worker/rewrite.json"] = draw.choice(_JOURNALS)
    if draw.random() < 0.05:
        files["job/.worker/lock"] = draw.choice(_LOCKS)
    calls = [call for call in _CALLS if call[0] != "report" or draw.random() < 0.4]
    if draw.random() < 0.2:
        calls.append(("train", "job", "--restart"))
    return Trial(tuple(calls), files, job, special, drawn=draw.random() < 0.04)


def _changed(draw: random.Random, name: str, content: bytes, seed: int) -> bytes:
    """Another content of a file of a job."""
    if draw.random() < 0.05:
        return draw.choice(_CONTENTS)
    if draw.random() < 0.1:
        return _torn(draw, content)
    if name.endswith(".json"):
        return _damaged(draw, content)
    if name.endswith(".jsonl"):
        lines = content.splitlines(keepends=True)
        for _ in range(draw.choice((1, 2, 5))):
            at = draw.randrange(len(lines))
            lines[at] = _damaged(draw, lines[at]).replace(b"\n", b" ") + b"\n"
        return b"".join(lines)
    if name.endswith(".prototxt"):
        if draw.random() < 0.3:
            return draw_net(seed).files[name.split(".")[0] + ".prototxt"]
        words = content.split(b" ")
        words[draw.randrange(len(words))] = draw.choice(VALUES).encode()
        return b" ".join(words)
    if name.endswith(".log"):
        lines = content.splitlines(keepends=True)
        at = draw.randrange(len(lines))
        lines[at:at] = [f"F1127 10:00:00.0 7 x.cpp:1] {draw.choice(NAMES)}\n".encode()]
        return b"".join(lines)
    return _torn(draw, content)


def _damaged(draw: random.Random, text: bytes) -> bytes:
    """JSON with a few values changed; hostile names among them."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _torn(draw, text)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if isinstance(content, dict | list) and content:
            mutated(content, draw)
    if draw.random() < 0.3:
        _rename(draw, content)
    return as_text(content, draw)


def _rename(draw: random.Random, content: object) -> None:
    """A hostile name in place of some text."""
    if isinstance(content, dict | list) and content:
        key = draw.choice(list(content) if isinstance(content, dict) else range(len(content)))
        if isinstance(content[key], str):
            content[key] = draw.choice(NAMES)
        else:
            _rename(draw, content[key])


def _torn(draw: random.Random, content: bytes) -> bytes:
    """Cut off, or with a few bytes changed."""
    if draw.random() < 0.4 or not content:
        return content[: draw.randrange(len(content) + 1)]
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)
