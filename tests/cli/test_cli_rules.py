"""``--rules``: rules of the user's own, from the plan to the training and the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import read_job_stages
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources
from caffe_batch.reporting.report_data import read_run
from tests.command import call

DOCS = Path(__file__).parent.parent.parent / "docs" / "rules.md"
NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 12 dim: 5 } shape { dim: 12 } } }
layer { name: "cut" type: "HardTanh" bottom: "data" top: "cut" }
layer { name: "ip" type: "InnerProduct" bottom: "cut" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    example = re.search(r'```python\n("""HardTanh.*?)```', DOCS.read_text(), re.DOTALL)
    assert example
    (tmp_path / "relu6.py").write_text(example[1])
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path / "net.prototxt"


def test_a_plan_remembers_its_rules(net: Path) -> None:
    rules, out = net.parent / "relu6.py", net.parent / "job"
    refused = call("plan", net, "--gpu-memory", "1GiB")
    assert refused.code == 2
    assert "--rules FILE.py adds a rule" in refused.err
    done = call(
        "plan", net, "--gpu-memory", "1GiB", "--effective-batch", 12, "--rules", rules, "--out", out
    )
    assert done.code == 0, done.err
    assert json.loads((out / "plan.json").read_text())["rules"] == [str(rules)]
    job = JobDirectory(out)
    plan = job.read_plan()
    (stage,) = read_job_stages(job, plan)
    assert CaffeMemory(stage.recipe, Sources()).at().peak_bytes == plan.predicted_peak_bytes
    memory = read_run(job).memory
    assert not isinstance(memory, str), memory
    assert memory.unknown_layers == ()


@pytest.mark.parametrize(
    "command",
    [
        ("memory",),
        ("plan", "--gpu-memory", "1GiB"),
        ("strategies", "--gpu-memory", "1GiB"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_commands_that_read_a_net_take_rules(net: Path, command: tuple[str, ...]) -> None:
    done = call(command[0], net, *command[1:], "--rules", net.parent / "relu6.py", "--json")
    assert done.code == 0, done.err
    json.loads(done.out)


def test_a_broken_rule_is_one_sentence(net: Path) -> None:
    broken = net.parent / "broken.py"
    broken.write_text("RULES = [\n")
    done = call("memory", net, "--rules", broken)
    assert done.code == 2
    assert re.search(r"broken\.py:1: not valid Python", done.err)
    assert "Traceback" not in done.err


FED = NET.replace(
    'type: "Input" top: "data" top: "label"\n  input_param {',
    'type: "DummyData" top: "data" top: "label"\n  dummy_data_param {',
)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("command", ["train", "verify", "noise"])
def test_what_the_runtime_lacks_is_refused_before_anything_runs(net: Path, command: str) -> None:
    net.write_text(FED)
    rules, job = net.parent / "relu6.py", net.parent / "job"
    options = {"train": ("--gpu-memory", "1GiB", "--out", job), "noise": ("--cpu",)}
    done = call(command, net, "--rules", rules, *options.get(command, ()))
    assert done.code == 2
    assert "doesn't have this layer type: HardTanh (layer 'cut')" in done.err
    assert "--runtime /path/to/python" in done.err
    if command == "train":
        assert not (job / "job.json").exists()
        assert not (job / "caffe.log").exists()
