"""The first cause is told, whatever else is in the log: on made-up logs and on real deaths."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.engines.caffe.causes import TAIL_LINES, TellingLines
from caffe_batch.engines.caffe.ending import classify, last_lines
from caffe_batch.engines.caffe.log_files import LogFollower
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.metrics import last_scores
from caffe_batch.net.data.findings import DataCheck
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.planned_jobs import attempts_of, write_job, write_lmdb


def glog(severity: str, message: str, thread: int = 7, place: str = "a.cpp:1") -> str:
    return f"{severity}0412 09:00:00.123456  {thread:4} {place}] {message}"


FATAL = glog("F", "Check failed: a == b (1 vs. 2) ", 9)
NOISE = [glog("I", f"Creating Layer {number}", 8) for number in range(5 * TAIL_LINES)]
STACK = ["*** Check failure stack trace: ***", "    @     0x7f1c2d5a50cd  google::Fail()",
         "    @              (nil)  (unknown)"]  # fmt: skip
ABORT = "*** SIGABRT (@0x7530) received by PID 30 (TID 0x7f) from PID 30; stack trace: ***"
UNCAUGHT = "terminate called after throwing an instance of '"
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/there/engines/caffe/inside/train.py", line 207, in <module>',
    "    sys.exit(main(json.loads(sys.argv[1])))",
    '  File "/home/me/mod.py", line 8, in forward',
    "    raise Odd('odd one')",
    "mod.Odd: odd one",
]


def told(*lines: str, status: int = -signal.SIGABRT) -> str:
    """What is said of a log of any length, read as a follower reads it."""
    telling = TellingLines()
    for line in lines:
        telling.add(line)
    ending = classify(status, None, telling.lines())
    return f"{ending.reason.value}: {ending.detail}"


@pytest.mark.parametrize(
    "lines",
    [
        [FATAL],
        [FATAL, *STACK],
        [*NOISE, FATAL, *STACK],
        [FATAL, *NOISE],
        [*NOISE, FATAL, STACK[0], *NOISE, *STACK[1:], *NOISE],
        [FATAL, glog("F", "Check failed: out of memory", 5)],
        [FATAL, f"{UNCAUGHT}std::bad_alloc'", "  what():  std::bad_alloc"],
        [FATAL, "terminate called recursively", ABORT],
        ["printed without a line feed" + FATAL],
        [FATAL.replace("F0412", "F20260412")],
        [glog("E", "of another thread", 5), FATAL],
        [glog("E", "long ago", 9), glog("I", "fine", 9), FATAL],
        ["Traceback (most recent call last):", '  File "/home/me/mod.py", line 8, in f',
         "ValueError: caught and shown by a layer", FATAL],
    ],
)  # fmt: skip
def test_the_first_fatal_line(lines: list[str]) -> None:
    assert told(*lines) == "failed check: Check failed: a == b (1 vs. 2)  (a.cpp:1)"


def test_what_the_thread_complained_about_just_before() -> None:
    complaint = glog("E", "Could not decode datum ", 9, "io.cpp:176")
    expected = "(a.cpp:1); before that: Could not decode datum (io.cpp:176)"
    assert told(complaint, NOISE[0], FATAL).endswith(expected)
    parser = '[libprotobuf ERROR google/protobuf/text_format.cc:309] 2:97: no field "x".'
    assert told(parser, FATAL).endswith('(a.cpp:1); before that: 2:97: no field "x".')
    missing = glog("E", "Could not open or find file /a/b.png", 9)
    fatal = glog("F", "Check failed: cv_img.data Could not load /a/b.png", 9)
    assert "before that" not in told(missing, fatal)


FORGED = "F0101 00:00:00.000001  99 common.cpp:66] No GPU"
FORGED_ABORT = f"{UNCAUGHT}std::bad_alloc'"


@pytest.mark.parametrize(
    "lines",
    [
        [f'  name: "{FORGED}"'],  # as Caffe prints a net
        [FORGED],  # behind a line feed in a name
        [glog("I", f"Creating Layer {FORGED}")],
        [glog("I", f"Creating Layer {FORGED_ABORT}")],
        [FORGED.replace("F0101", "F1231")],
        [FORGED.replace("F0101", "F9999")],
        [glog("F", "No GPU", 8)],  # time and thread guessed
        [glog("I", "old").replace("0412", "0101"), FORGED],
        [f'  name: "{FORGED}"'] * 50,
    ],
)
@pytest.mark.parametrize("between", [[], NOISE, ["dim: 1"] * (TAIL_LINES - 10)])
@pytest.mark.parametrize("after", [[], NOISE])
def test_a_name_forges_no_fatal_line(
    lines: list[str], between: list[str], after: list[str]
) -> None:
    main = glog("I", "Setting up data", 8)
    said = told(main, *lines, main, *between, FATAL, *after)
    assert said == "failed check: Check failed: a == b (1 vs. 2)  (a.cpp:1)"


def test_without_another_cause_a_forged_line_is_none() -> None:
    main = glog("I", "Setting up data", 99)
    assert told(main, FORGED, main, status=-signal.SIGKILL) == "killed: killed by SIGKILL"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0412 09:00:00.123456", "0412 08:59:30.000000"),  # a thread that had to wait
        ("1231 23:59:59.900000", "0101 00:00:00.100000"),  # a new year
        ("20261231 23:59:59.900000", "20270101 00:00:00.100000"),
        ("1025 02:59:59.900000", "1025 02:00:00.100000"),  # the end of summer time
        ("0412 09:00:00.123456", "0413 09:00:00.123456"),  # a day without a word
    ],
)
def test_times_of_real_fatal_lines(before: str, after: str) -> None:
    info = glog("I", "fine").replace("0412 09:00:00.123456", before)
    fatal = FATAL.replace("0412 09:00:00.123456", after)
    assert told(info, fatal).startswith("failed check: Check failed: a == b")
    assert told(*[info] * (2 * TAIL_LINES), fatal).startswith("failed check: Check failed: a == b")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [f"{UNCAUGHT}cv::Exception'", "  what():  OpenCV(4.5.1) error: !ssize.empty()", ABORT],
            "crashed: cv::Exception: OpenCV(4.5.1) error: !ssize.empty(), ended by SIGABRT",
        ),
        (  # libstdc++ writes in pieces
            [UNCAUGHT + NOISE[0], "cv::Exception'", NOISE[1], "  what():  no window", *NOISE],
            "crashed: no window, ended by SIGABRT",
        ),
        (
            [f"{UNCAUGHT}cv::Exception'", "  what():  (-4:Insufficient memory) Failed to allocate"],
            "out of host memory: cv::Exception: (-4:Insufficient memory) Failed to allocate, "
            "ended by SIGABRT",
        ),
        (
            [ABORT, *STACK[1:], "    @     0x7f52380332ed caffe::PythonLayer<>::Forward_cpu()"],
            "crashed: ended by SIGABRT in caffe::PythonLayer<>::Forward_cpu()",
        ),
        ([*TRACEBACK, "terminate called without an active exception", ABORT],
         "Python error: mod.Odd: odd one (/home/me/mod.py:8)"),
        ([*TRACEBACK, FATAL], "Python error: mod.Odd: odd one (/home/me/mod.py:8)"),
    ],
)  # fmt: skip
def test_exceptions_and_signals(lines: list[str], expected: str) -> None:
    assert told(*NOISE, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (TRACEBACK, "mod.Odd: odd one (/home/me/mod.py:8)"),
        ([*TRACEBACK, "and line two", "", "more"],
         "mod.Odd: odd one and line two (/home/me/mod.py:8)"),
        ([*TRACEBACK[:3], NOISE[0], *TRACEBACK[3:], NOISE[1]],
         "mod.Odd: odd one (/home/me/mod.py:8)"),
        ([*TRACEBACK[:-1], "KeyError: 'k'", "", "The above exception was the direct cause of ...",
          "", *TRACEBACK[:-1], "RuntimeError: no k"], "RuntimeError: no k (/home/me/mod.py:8)"),
        (['  File "/home/me/mod.py", line 2', "    class L(", "           ^",
          "SyntaxError: unexpected EOF", *TRACEBACK[:3],
          "SystemError: <Boost.Python.function object> returned NULL without setting an error"],
         "SyntaxError: unexpected EOF (/home/me/mod.py:2)"),
    ],
)  # fmt: skip
def test_python_errors(lines: list[str], expected: str) -> None:
    assert told(*lines, status=1) == f"Python error: {expected}"


def test_last_words() -> None:
    """They are told where nothing else is, and only of what Python ended by itself."""
    assert told(*NOISE, "no labels", "", "here", status=1) == (
        "unknown: ended early with exit status 1; the log ends with: no labels here"
    )
    assert told("no labels", NOISE[0], status=1) == "unknown: ended early with exit status 1"
    assert told("no labels", status=3) == "unknown: ended early with exit status 3"
    assert told(*TRACEBACK, "bye", status=1).startswith("Python error: mod.Odd: odd one")


def test_the_lines_shown_end_with_the_cause() -> None:
    telling = TellingLines()
    for line in [*NOISE, FATAL, *STACK, *NOISE]:
        telling.add(line)
    assert last_lines(telling.lines(), 3) == [*NOISE[-2:], FATAL]


def test_a_last_line_without_an_end(tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    log.write_text(FATAL + "\n")  # of an earlier worker
    follower = LogFollower(log)
    with log.open("a") as more:
        more.write("fine\n" + FATAL.replace("(1 vs. 2)", "(3 vs. 4)"))
    assert list(follower.read()) == []
    assert follower.tail[0] == "fine"
    assert "(3 vs. 4)" in classify(-6, None, follower.tail).detail
    follower.close()


# Real deaths

#: So many layers that the main thread writes thousands of lines while a prefetch thread dies.
MANY = "".join(
    f'layer {{ name: "r{n}" type: "ReLU" bottom: "data" top: "r{n}" }}\n'
    f'layer {{ name: "s{n}" type: "Silence" bottom: "r{n}" }}\n'
    for n in range(150)
)
CLASSIFIER = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
LAYER = """
import caffe
class Odd(Exception):
    pass
class Own(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        {forward}
    def backward(self, top, propagate_down, bottom):
        pass
"""


def data_layer(folder: Path, more: str = "", phase: str = "TRAIN") -> str:
    if not (folder / "data").exists():
        write_lmdb(folder / "data")
    return (
        f'layer {{ name: "{phase.lower()}" type: "Data" top: "data" top: "label" '
        f'data_param {{ source: "data" backend: LMDB batch_size: 6 }} {more} '
        f"include {{ phase: {phase} }} }}\n"
    )


def with_mean(folder: Path) -> str:
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=9, width=9, data=[0.0] * 81)
    (folder / "mean.binaryproto").write_bytes(blob.SerializeToString())
    return 'transform_param { mean_file: "mean.binaryproto" }'


def png(shade: int) -> bytes:
    """A grey image of 4 x 3 pixels."""
    rows = b"".join(b"\0" + bytes([shade]) * 3 for _ in range(4))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 3, 4, 8, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b""))  # fmt: skip
    body = b"".join(
        struct.pack(">I", len(content)) + name + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + body


def missing_image(folder: Path, at: int = 20) -> str:
    for number in range(30):
        if number != at:
            (folder / f"{number}.png").write_bytes(png(number))
    lines = [f"{number}.png {number % 4}\n" for number in range(30)]
    (folder / "list.txt").write_text("".join(lines))
    return (
        'layer { name: "images" type: "ImageData" top: "data" top: "label" '
        'image_data_param { source: "list.txt" batch_size: 6 } }\n'
    )


def windows_outside(folder: Path) -> str:
    (folder / "0.png").write_bytes(png(1))
    windows = "# 0\n0.png\n3\n4\n3\n2\n1 0.9 0 0 90 90\n0 0.1 1 1 2 2\n"
    (folder / "windows.txt").write_text(windows)
    return (
        'layer { name: "windows" type: "WindowData" top: "data" top: "label" '
        "transform_param { crop_size: 3 } window_data_param { "
        'source: "windows.txt" batch_size: 8 fg_threshold: 0.5 bg_threshold: 0.5 } }\n'
    )


def truncated(folder: Path) -> str:
    net = data_layer(folder)
    os.truncate(folder / "data" / "data.mdb", 2 * 8192)
    return net


def python_layer(folder: Path, forward: str) -> str:
    (folder / "own.py").write_text(LAYER.format(forward=forward))
    return data_layer(folder) + (
        'layer { name: "mine" type: "Python" bottom: "data" top: "mine" '
        'python_param { module: "own" layer: "Own" } }\n'
    )


#: A net, and what is told of it: the words of Caffe, and what Caffe doesn't say.
DEATHS: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "a mean file of another size": (
        lambda f: data_layer(f, with_mean(f)) + MANY,
        ["failed check: Check failed: datum_height == data_mean_.height() (5 vs. 9)",
         "layer 'train' (TRAIN): mean.binaryproto: the mean image is 1 x 9 x 9"],
    ),
    "two mean files of another size": (
        lambda f: data_layer(f, with_mean(f)) + data_layer(f, with_mean(f), "TEST"),
        ["failed check: Check failed: datum_height == data_mean_.height() (5 vs. 9)",
         "layer 'train' (TRAIN): mean.binaryproto", "layer 'test' (TEST): mean.binaryproto"],
    ),
    "a missing image": (
        lambda f: missing_image(f, at=3) + MANY,
        ["failed check: Check failed: cv_img.data Could not load 3.png",
         "layer 'images' (TRAIN): list.txt:4: source '3.png' is not in "],
    ),
    "an image that is missing later": (
        missing_image,
        ["failed check: Check failed: cv_img.data Could not load 20.png", "list.txt:21: "],
    ),
    "windows outside of the image": (
        windows_outside,
        ["crashed: cv::Exception: OpenCV", "ended by SIGABRT; layer 'windows' (TRAIN): windows.txt",
         "the window 0 0 90 90 isn't inside the image"],
    ),
    "a database that was cut off": (
        truncated,
        ["crashed: ended by SIGBUS in caffe::db::LMDB", "layer 'train' (TRAIN): LMDB ",
         "truncated"],
    ),
    "an exception of a Python layer": (
        lambda f: python_layer(f, "raise Odd('odd one')"),
        ["Python error: own.Odd: odd one (", "own.py:11); that is the code of layer 'mine'"],
    ),
    "the last words of a Python layer": (
        lambda f: python_layer(f, "import sys; sys.exit('no labels\\nin here')"),
        ["ended early with exit status 1; the log ends with: no labels in here"],
    ),
    "prints without a line feed before a failed check": (
        lambda f: missing_image(f, at=29) + python_layer(
            f, "import os; os.write(1, b'on and on ' * 99); top[0].reshape(-1)"
        ).splitlines()[-1],
        ["failed check: Check failed: shape[i] >= 0 (-1 vs. 0)"],
    ),
}  # fmt: skip


def die(runtime: Runtime, folder: Path, case: str) -> str:
    """What is told of a death."""
    make, _ = DEATHS[case]
    net = make(folder) + CLASSIFIER
    tests: dict[str, Any] = {} if "TEST" in net else {"test_iter": None, "test_interval": None}
    job = write_job(folder, net=net, max_iter=20, iter_size=1, **tests)
    with pytest.raises(TrainingError) as failure:
        train(job, runtime, Options(check_data=DataCheck.NONE))
    ending = attempts_of(job)[-1]
    assert ending.ending is not None
    said = f"{ending.ending.value}: {ending.detail}"
    assert said in failure.value.message
    return said


@pytest.mark.parametrize("case", DEATHS)
def test_real_deaths(case: str, runtime: Runtime, tmp_path: Path) -> None:
    said = die(runtime, tmp_path, case)
    assert [words for words in DEATHS[case][1] if words not in said] == [], said


def test_a_user_who_has_silenced_glog_is_told_all_the_same(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and causes are read from its log."""
    monkeypatch.setenv("GLOG_log_prefix", "0")
    monkeypatch.setenv("GLOG_minloglevel", "2")
    (tmp_path / "scores").mkdir()
    job = write_job(tmp_path / "scores", max_iter=4, iter_size=1)
    train(job, runtime)
    assert {score.output for score in last_scores(job.metrics)} >= {"accuracy", "loss"}
    case = "a missing image"
    said = die(runtime, tmp_path, case)
    assert [words for words in DEATHS[case][1] if words not in said] == [], said


@pytest.mark.slow
@pytest.mark.parametrize("case", DEATHS)
def test_real_deaths_many_times(case: str, runtime: Runtime, tmp_path: Path) -> None:
    """Threads race: each run interleaves their lines in another way."""
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        said = die(runtime, folder, case)
        assert [words for words in DEATHS[case][1] if words not in said] == [], said


def test_a_reason_for_every_kind() -> None:
    assert classify(1, None, []).reason is EndReason.UNKNOWN
    assert classify(-11, None, ["*** SIGSEGV (@0x0) received by PID 3"]).detail == (
        "ended by SIGSEGV"
    )
