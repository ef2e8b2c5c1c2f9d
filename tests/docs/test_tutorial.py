"""docs/tutorial.md, word for word: its files are saved, its commands are run, on both engines."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import onnxruntime
import pytest

from caffe_batch import engines
from tests.both_engines import runtime as runtime
from tests.command import spawn

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"

#: The name in the sentence before a Python block, or the commands of a shell block.
BLOCK = re.compile(
    r"Save this as `(?P<name>[\w.]+)`:\n\n```python\n(?P<code>.*?)```|```bash\n(?P<shell>.*?)```",
    re.DOTALL,
)

#: Nets of this size are right about 98 to 99 of 100 digits; one that guesses is right about 10.
LEAST_ACCURACY = 0.95


def test_every_block_is_run_or_shows_output() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w+)$", text, re.MULTILINE)
    assert len(BLOCK.findall(text)) == sum(kind in ("bash", "python") for kind in fences)
    assert set(fences) == {"bash", "python", "text"}


@pytest.mark.slow
@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("runtime", engines.NAMES, indirect=True)
def test_the_tutorial(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine = request.node.callspec.params["runtime"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    printed: dict[str, str] = {}
    for block in BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8")):
        if block["name"]:
            (tmp_path / block["name"]).write_text(block["code"], encoding="utf-8")
            continue
        for command in block["shell"].splitlines():
            done = spawn("sh", "-c", command, cwd=tmp_path, PATH=path, CAFFE_BATCH_ENGINE=engine)
            assert done.code == 0, f"{command}\n{done.out}{done.err}"
            printed[command] = done.out

    assert json.loads((tmp_path / "job" / "plan.json").read_text())["engine"] == engine
    (data,) = (text for command, text in printed.items() if " data " in command)
    assert "all    1,438   359" in data
    (tested,) = (text for command, text in printed.items() if " test " in command)
    (accuracy,) = re.findall(r"^accuracy +([\d.]+) %$", tested, re.MULTILINE)
    assert float(accuracy) >= 100 * LEAST_ACCURACY
    answers = [text for command, text in printed.items() if " classify " in command]
    assert [answer.splitlines()[1].split()[-1] for answer in answers] == ["3", "3"]
    assert printed["python answer.py"] == "the digit is a 3\n"
    assert "<html" in (tmp_path / "test.html").read_text(encoding="utf-8")
    onnxruntime.InferenceSession(tmp_path / "model.onnx")
