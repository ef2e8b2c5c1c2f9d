"""Files that are newer, damaged or have foreign keys: nothing of them is lost.

The jobs are the golden ones, as a user would find them: through the command line.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import __version__
from tests.command import call, tree
from tests.jobs.damage import as_text, mutated
from tests.planned_jobs import write_lmdb

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "0.1.0"

#: What caffe-batch 9.8.7 may have written into each file.
NEWER: dict[str, str] = {
    "plan.json": '{"format": 3, "caffe_batch_version": "9.8.7", "everything": "is different"}',
    "job.json": '{"format": 3, "caffe_batch_version": "9.8.7", "attempts": "gone"}',
    "metrics.jsonl": '{"format": 3, "caffe_batch_version": "9.8.7"}\n{"loss of 1": 2}\n',
}


def copied(name: str, folder: Path) -> Path:
    job = folder / name
    shutil.copytree(GOLDEN / name, job)
    return job


@pytest.mark.parametrize("file", NEWER)
@pytest.mark.parametrize(
    "command",
    [
        ("train",),
        ("train", "--restart"),
        ("train", "--follow"),
        ("status",),
        ("status", "--json"),
        ("stop",),
        ("report",),
    ],
    ids=" ".join,
)
def test_a_newer_format_is_refused_and_nothing_is_changed(
    command: tuple[str, ...], file: str, tmp_path: Path, runtime: object
) -> None:
    job = copied("interrupted", tmp_path)
    (job / file).write_text(NEWER[file])
    before = tree(job)
    done = call(command[0], job, *command[1:])
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"caffe-batch: {job / file} has format 3 of caffe-batch 9.8.7, and caffe-batch "
        f"{__version__} reads formats up to 2\nUse a newer caffe-batch. Nothing was changed.\n"
    )
    assert tree(job) == before


def test_a_solver_of_a_newer_job_is_not_planned(tmp_path: Path) -> None:
    job = copied("finished", tmp_path)
    (job / "plan.json").write_text(NEWER["plan.json"])
    done = call(
        "plan", job / "solver.prototxt", "--gpu-memory", "1GiB", "--effective-batch", 12,
        "--input-shape", "data=1x8x8", "--train-records", 100, "--test-records", 100,
    )  # fmt: skip
    assert done.code == 2
    assert "plan.json has format 3 of caffe-batch 9.8.7" in done.err


def test_newer_strategies_and_comparisons_are_refused(tmp_path: Path, runtime: object) -> None:
    for file in ("strategies.json", "compare.json"):
        (tmp_path / "strategies.json").write_text('{"recipe": {}, "strategies": []}')
        (tmp_path / file).write_text('{"format": 3}')
        done = call("compare", tmp_path)
        assert done.code == 2
        assert f"{file} has format 3, and caffe-batch {__version__} reads" in done.err
        assert (tmp_path / file).read_text() == '{"format": 3}'


def test_going_on_keeps_what_others_wrote(tmp_path: Path, runtime: object) -> None:
    """One unknown key costs no line of metrics.jsonl and no attempt of job.json."""
    job = copied("interrupted", tmp_path)
    write_lmdb(job / "data")
    record = json.loads((job / "job.json").read_text())
    record["x"] = "of others"
    record["attempts"][0]["x"] = {"y": 1}
    (job / "job.json").write_text(json.dumps(record))
    metrics = job / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    lines = [line.replace(b'"update"', b'"x": [1,  2], "update"') for line in lines]
    damaged = [b'{"update": 7, "loss": "low"}\n', b"\xff\xfe\n", b'{"update": 103, "lo']
    metrics.write_bytes(b"".join([*lines[:9], *damaged[:2], *lines[9:], damaged[2]]))
    done = call("train", job, "--quiet")
    assert done.code == 0, done.err
    assert "3 lines of metrics.jsonl can't be understood: set aside in" in done.err
    assert metrics.read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    aside = (job / "metrics.jsonl.damaged").read_bytes()
    assert aside == b"".join(damaged) + b"\n"
    after = json.loads((job / "job.json").read_text())
    assert (after["x"], after["attempts"][0]["x"]) == ("of others", {"y": 1})
    assert "x" not in after["attempts"][1]


def test_a_damaged_record_costs_nothing(tmp_path: Path, runtime: object) -> None:
    """What the message advises continues from the snapshot."""
    job = copied("interrupted", tmp_path)
    write_lmdb(job / "data")
    text = (job / "job.json").read_text().replace('"first_update": 0', '"first_update": "none"')
    (job / "job.json").write_text(text)
    before = tree(job)
    done = call("train", job)
    assert done.code == 2
    assert 'attempts[0].first_update should be an integer, found "none"' in done.err
    assert "or move job.json out of the directory" in done.err
    assert "--restart" not in done.err
    assert tree(job) == before
    (job / "job.json").rename(tmp_path / "job.json")
    done = call("train", job, "--quiet")
    assert done.code == 0, done.err
    assert "Continuing from update 103" in done.err
    lines = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "loss" in line] == list(range(1, 161))


def mutate_json(name: str) -> Callable[[Path, random.Random], None]:
    def mutate(job: Path, draw: random.Random) -> None:
        content = json.loads((job / name).read_text())
        for _ in range(draw.randint(1, 2)):
            mutated(content, draw)
        (job / name).write_bytes(as_text(content, draw))

    return mutate


def mutate_lines(job: Path, draw: random.Random) -> None:
    lines = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()[:60]]
    for line in draw.sample(lines, 20):
        mutated(line, draw)
    text = b"\n".join(as_text(line, draw) for line in lines)
    (job / "metrics.jsonl").write_bytes(text + draw.choice([b"", b"\n"]))


@pytest.mark.parametrize(
    ("mutate", "times"),
    [
        (mutate_json("plan.json"), 150),
        (mutate_json("job.json"), 150),
        (mutate_lines, 100),
    ],
    ids=["plan.json", "job.json", "metrics.jsonl"],
)
def test_no_damage_makes_a_traceback(
    mutate: Callable[[Path, random.Random], None], times: int, tmp_path: Path
) -> None:
    """A message or an answer; ``call`` lets every other exception through."""
    draw = random.Random(20261127)
    answered = 0
    for number in range(times):
        name = draw.choice(["finished", "interrupted", "growing", "resplit"])
        job = tmp_path / f"job-{number}"
        job.mkdir()
        for path in (GOLDEN / name).iterdir():
            if path.is_file():
                shutil.copy(path, job)
        mutate(job, draw)
        before = tree(job)
        readers = [
            ("status", job),
            ("report", job, "--json"),
            ("report", job, "--out", tmp_path / "report.html"),
            ("train", job, "--follow"),
        ]
        for command in (("status", job, "--json"), draw.choice(readers)):
            done = call(*command)
            assert done.code in (0, 2, 4, 130), (number, command, done.err)
            assert not done.out or done.code != 2
            answered += done.code == 0
        assert tree(job) == before
    assert answered > times // 10
