"""``caffe-batch plan``, called as a user or another program calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import prototxt
from caffe_batch.prototxt import write
from tests.command import PROGRAM, call, spawn, tree
from tests.planned_jobs import NET, RECORDS, write_lmdb

BATCH = 12  # TRAIN batch_size in net.prototxt
SOLVER = """\
# My recipe.
net: "net.prototxt"
iter_size: 2
base_lr: 0.1  lr_policy: "fixed"  momentum: 0.9
max_iter: 50
test_iter: 7  test_interval: 10
"""

#: What the design promises, with its type; more keys are welcome.
KEYS: dict[str, type | tuple[type, ...]] = {
    "effective_batch": int,
    "requested_effective_batch": int,
    "batch_size": int,
    "iter_size": int,
    "gpus": int,
    "budget_bytes": int,
    "reserve_bytes": int,
    "predicted_peak_bytes": int,
    "candidates": list,
    "changes": list,
    "files": dict,
}
CANDIDATE_KEYS = {
    "batch_size": int,
    "iter_size": int,
    "effective_batch": int,
    "predicted_peak_bytes": (int, type(None)),
    "fits": bool,
}
CHANGE_KEYS = {
    "file": str,
    "field": str,
    "from": (int, str, type(None)),
    "to": (int, str, type(None)),
    "reason": str,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lmdb(tmp_path_factory.mktemp("data") / "lmdb")


@pytest.fixture
def folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a net on real data and its solver."""
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=BATCH, width=8))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def peak(batch_size: int, mode: str = "cpu") -> int:
    """What solver.prototxt takes at a batch size, as ``memory`` tells it, in bytes."""
    args = ("memory", "solver.prototxt", "--batch-size", batch_size, "--mode", mode, "--json")
    device = json.loads(call(*args).out)["device_bytes"]
    found: int = device["peak_with_tests"] + device["rounding"]
    return found


def budget(batch_size: int) -> tuple[object, ...]:
    """Options for which solver.prototxt is planned at this batch size (host memory: exact)."""
    size = f"{peak(batch_size)}B"
    return ("--mode", "cpu", "--gpu-memory", size, "--reserve", 0, "--keep-tests")


def plan_json(net: str = "solver.prototxt", *options: object) -> dict[str, Any]:
    done = call("plan", net, *options, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def check_types(row: dict[str, Any], keys: dict[str, Any]) -> None:
    wrong = {
        key: row.get(key, "missing") for key in keys if not isinstance(row.get(key), keys[key])
    }
    assert not wrong
    for key, value in row.items():
        if isinstance(value, bool):
            assert keys.get(key, bool) is bool, key


def test_the_promised_json(folder: Path) -> None:
    plan = plan_json("solver.prototxt", "--effective-batch", 24, *budget(6))
    check_types(plan, KEYS)
    for candidate in plan["candidates"]:
        check_types(candidate, CANDIDATE_KEYS)
        assert candidate["batch_size"] * candidate["iter_size"] == 24
        assert candidate["effective_batch"] == 24
        assert candidate["predicted_peak_bytes"] == peak(candidate["batch_size"])
        assert candidate["fits"] == (candidate["batch_size"] <= 6)
    assert [c["batch_size"] for c in plan["candidates"]] == [24, 12, 8, 6, 4, 3, 2, 1]
    for change in plan["changes"]:
        check_types(change, CHANGE_KEYS)
    assert [(c["file"], c["field"], c["from"], c["to"]) for c in plan["changes"]] == [
        ("net.prototxt", 'layer "data" data_param.batch_size', BATCH, 6),
        ("solver.prototxt", "iter_size", 2, 4),
    ]
    assert (plan["effective_batch"], plan["requested_effective_batch"]) == (24, 24)
    assert (plan["batch_size"], plan["iter_size"], plan["gpus"]) == (6, 4, 1)
    assert (plan["budget_bytes"], plan["reserve_bytes"]) == (peak(6), 0)
    assert plan["predicted_peak_bytes"] == peak(6)
    assert plan["train_records"] == RECORDS
    assert plan["files"] == {}


def test_one_byte_less_is_the_next_smaller_batch(folder: Path) -> None:
    options = ("--effective-batch", 24, "--mode", "cpu", "--gpu-memory", f"{peak(6) - 1}B",
               "--reserve", 0, "--keep-tests")  # fmt: skip
    assert plan_json("solver.prototxt", *options)["batch_size"] == 4


@pytest.mark.parametrize("size", [8, 1])
def test_on_a_gpu_the_largest_batch_that_fits(folder: Path, size: int) -> None:
    usable = peak(size, "gpu")
    options = (
        "--effective-batch",
        24,
        "--gpu-memory",
        f"{usable}B",
        "--reserve",
        0,
        "--keep-tests",
    )
    plan = plan_json("solver.prototxt", *options)
    check_types(plan, KEYS)
    sizes = [c["batch_size"] for c in plan["candidates"]]
    assert plan["batch_size"] == max(s for s in sizes if peak(s, "gpu") <= usable) >= size
    assert plan["predicted_peak_bytes"] <= peak(plan["batch_size"], "gpu")


def test_test_batches_make_room_and_what_is_written_is_what_was_predicted(folder: Path) -> None:
    usable = peak(8, "gpu")
    options = (
        "--effective-batch",
        24,
        "--gpu-memory",
        f"{usable}B",
        "--reserve",
        0,
        "--out",
        "job",
    )
    plan = plan_json("solver.prototxt", *options)
    assert plan["batch_size"] > 8
    (test,) = plan["tests"]
    assert test["batch_size"] * test["test_iter"] == RECORDS
    written = json.loads(call("memory", "job/solver.prototxt", "--json").out)["device_bytes"]
    assert written["peak_with_tests"] == plan["predicted_peak_bytes"] <= usable


def test_out_writes_the_job(folder: Path) -> None:
    before = tree(folder)
    plan = plan_json("solver.prototxt", "--effective-batch", 24, *budget(6), "--out", "deep/job")
    job = folder / "deep" / "job"
    written = {name: str(job / name) for name in ("solver.prototxt", "net.prototxt", "plan.json")}
    assert sorted(plan["files"].values()) == sorted(written.values())
    after = tree(folder)
    assert {name: after[name] for name in before} == before
    made = {name for name in after if name not in before and after[name] is not None}
    assert made == {f"deep/job/{name}" for name in written}
    kept = json.loads((job / "plan.json").read_text())
    assert {key: kept[key] for key in KEYS if key != "changes"} == {
        key: plan[key] for key in KEYS if key != "changes"
    }
    assert kept["changes"][: len(plan["changes"])] == plan["changes"]
    assert kept["working_directory"] == str(folder)
    solver = prototxt.read_solver(job / "solver.prototxt")
    assert (solver.iter_size, solver.net) == (4, str(job / "net.prototxt"))
    assert prototxt.read_net(job / "net.prototxt").layer[0].data_param.batch_size == 6
    assert (job / "solver.prototxt").read_text().startswith("# My recipe.\n")


def test_the_table(folder: Path) -> None:
    done = call("plan", "solver.prototxt", "--effective-batch", 24, *budget(6), "--out", "job")
    assert (done.code, done.err) == (0, "")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[0].startswith("effective batch 24 = batch_size 6 x iter_size 4, ")
    chosen = [line.split() for line in lines if line.startswith("->")]
    assert [line[:3] for line in chosen] == [["->", "6", "4"]]
    assert chosen[0][-1] == "100%"
    row = next(line for line in lines if "data_param.batch_size" in line)
    assert row.split("  ")[-1].strip() == "the micro-batch that fits the budget"
    assert lines[-2:] == [
        f"Written to {folder / 'job'}",
        f"Run it: caffe-batch train {folder / 'job'}",
    ]


def test_without_out_nothing_is_written(folder: Path) -> None:
    before = tree(folder)
    done = call("plan", "solver.prototxt", "--gpu-memory", "1GiB")
    assert done.code == 0
    assert "Nothing changes: the files already have this split." not in done.out
    assert done.out.endswith("Nothing is written without --out DIR.\n")
    assert tree(folder) == before


def test_the_effective_batch_is_the_files_own(folder: Path) -> None:
    assert plan_json("solver.prototxt", "--gpu-memory", "1GiB")["effective_batch"] == BATCH * 2
    plan = plan_json("net.prototxt", "--gpu-memory", "1GiB")
    assert (plan["effective_batch"], plan["batch_size"], plan["iter_size"]) == (BATCH, BATCH, 1)
    assert plan["changes"] == []
    # Caffe gives each GPU the batch of the file.
    plan = plan_json("net.prototxt", "--gpu-memory", "1GiB", "--gpus", 3)
    assert (plan["effective_batch"], plan["batch_size"], plan["gpus"]) == (3 * BATCH, BATCH, 3)


def test_several_gpus_share_the_effective_batch(folder: Path) -> None:
    options = ("--effective-batch", 24, "--gpu-memory", "1GiB", "--gpus", 2)
    plan = plan_json("solver.prototxt", *options)
    assert (plan["batch_size"], plan["iter_size"], plan["gpus"]) == (12, 1, 2)
    assert all(c["batch_size"] * c["iter_size"] * 2 == 24 for c in plan["candidates"])
    summary = call("plan", "solver.prototxt", *options).out.splitlines()[0]
    assert summary.startswith("effective batch 24 = batch_size 12 x iter_size 1 x 2 GPUs, ")


def test_reserve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_BATCH_HOME", str(folder / "home"))  # nothing was measured there
    gpu = plan_json("net.prototxt", "--gpu-memory", "1GiB")
    assert (gpu["budget_bytes"], gpu["reserve_bytes"]) == (2**30, 512 * 2**20)
    given = plan_json("net.prototxt", "--gpu-memory", "1GiB", "--reserve", "100MB")
    assert given["reserve_bytes"] == 10**8
    host = plan_json("net.prototxt", "--gpu-memory", "1GiB", "--mode", "cpu")
    assert host["mode"] == "cpu"
    assert 96 * 2**20 < host["reserve_bytes"] < 97 * 2**20


def test_cpu_mode_counts_host_memory(folder: Path) -> None:
    plan = plan_json("solver.prototxt", "--gpu-memory", "1GiB", "--mode", "cpu")
    assert plan["predicted_peak_bytes"] == peak(24) != peak(24, "gpu")


def test_train_records(folder: Path) -> None:
    options = ("--gpu-memory", "1GiB")
    assert plan_json("net.prototxt", *options)["train_records"] == RECORDS
    assert plan_json("net.prototxt", *options, "--train-records", 99)["train_records"] == 99
    text = (folder / "net.prototxt").read_text()
    (folder / "elsewhere.prototxt").write_text(text.replace("/lmdb", "/gone"))
    plan = plan_json("elsewhere.prototxt", *options, "--input-shape", "data=1x5x7")
    assert plan["train_records"] is None
    assert (
        plan["predicted_peak_bytes"] == plan_json("net.prototxt", *options)["predicted_peak_bytes"]
    )


def test_a_net_alone_gets_a_solver_that_fits_its_data(folder: Path) -> None:
    done = call("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "job")
    assert done.err == "note: no solver was given; templates/solver.prototxt.j2 makes one\n"
    solver = prototxt.read_solver("job/solver.prototxt")
    epoch = -(-RECORDS // BATCH)  # updates
    assert (solver.test_interval, solver.max_iter) == (epoch, 10 * epoch)
    assert list(solver.test_iter) == [RECORDS // 10]  # the TEST batch_size is 10


def test_unknown_layers_need_no_solver(folder: Path) -> None:
    text = (folder / "net.prototxt").read_text().replace('"ReLU"', '"Maxout"')
    (folder / "fork.prototxt").write_text(text)
    assert call("plan", "fork.prototxt", "--gpu-memory", "1GiB").code == 2
    plan = plan_json("fork.prototxt", "--gpu-memory", "1GiB", "--allow-unknown", "--out", "job")
    assert plan["lower_bound"] is True
    assert list(prototxt.read_solver("job/solver.prototxt").test_iter) == [RECORDS // 10]
    table = call("plan", "fork.prototxt", "--gpu-memory", "1GiB", "--allow-unknown").out
    assert " x iter_size 1, at least " in table.splitlines()[0]


def test_a_net_with_another_solver(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "adam.prototxt").write_text(
        SOLVER.replace("net.prototxt", "gone.prototxt") + 'type: "Adam"\n'
    )
    options = ("--gpu-memory", "1GiB", "--out", "job")
    plan_json("net.prototxt", "--solver", "other/adam.prototxt", *options)
    solver = prototxt.read_solver("job/solver.prototxt")
    assert (solver.type, solver.net) == ("Adam", str(folder / "job" / "net.prototxt"))


def test_a_net_beside_its_solver_is_a_note(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    done = call("plan", folder / "solver.prototxt", "--gpu-memory", "1GiB", "--json")
    assert done.err.startswith("note: net 'net.prototxt' was found beside the solver, as ")
    assert json.loads(done.out)["effective_batch"] == BATCH * 2


def test_binary_files(folder: Path) -> None:
    net, solver = prototxt.read_net("net.prototxt"), prototxt.read_solver("solver.prototxt")
    solver.net = "net.caffemodel"
    (folder / "net.caffemodel").write_bytes(net.SerializeToString())
    (folder / "solver.bin").write_bytes(solver.SerializeToString())
    assert plan_json("solver.bin", *budget(6), "--out", "job")["batch_size"] == 6
    net.layer[0].data_param.batch_size = 6
    assert write(prototxt.read_net("job/net.prototxt")) == write(net)


def test_a_batch_that_the_net_fixes(folder: Path) -> None:
    """Where the shapes fix the batch, only that size is possible; the table says why."""
    (folder / "fixed.prototxt").write_text("""
      layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 5 } } }
      layer { name: "target" type: "DummyData" top: "target"
        dummy_data_param { shape { dim: 2 dim: 2 } } }
      layer { name: "flat" type: "Reshape" bottom: "data" top: "flat"
        reshape_param { shape { dim: 2 dim: 30 } } }
      layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"
        inner_product_param { num_output: 2 } }
      layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
    """)
    options = ("--effective-batch", 8, "--gpu-memory", "1GiB")
    plan = plan_json("fixed.prototxt", *options)
    assert (plan["batch_size"], plan["iter_size"]) == (4, 2)
    refused = {c["batch_size"] for c in plan["candidates"] if c["predicted_peak_bytes"] is None}
    assert refused == {8, 2, 1}
    table = call("plan", "fixed.prototxt", *options).out
    assert "layer 'flat': can't reshape (8, 3, 5), 120 elements, into (2, 30)" in table
    done = call("plan", "fixed.prototxt", "--effective-batch", 8, "--gpu-memory", "100B",
                "--reserve", 0)  # fmt: skip
    assert done.code == 3
    assert "batch_size 4 needs" in done.err


def test_a_batch_written_out_in_a_reshape_is_copied_instead(folder: Path) -> None:
    (folder / "literal.prototxt").write_text("""
      layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 3 dim: 5 } shape { dim: 4 } } }
      layer { name: "flat" type: "Reshape" bottom: "data" top: "flat"
        reshape_param { shape { dim: 4 dim: 15 } } }
      layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"
        inner_product_param { num_output: 2 } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
    """)
    options = ("--gpu-memory", "1GiB", "--batch-size", 2)
    plan = plan_json("literal.prototxt", *options)
    fields = {change["field"]: (change["from"], change["to"]) for change in plan["changes"]}
    assert fields['layer "flat" reshape_param.shape.dim[0]'] == (4, 0)
    (literal,) = [each for each in plan["audit"] if each["cause"] == "literal_batch"]
    assert (literal["layer"], literal["verdict"]) == ("flat", "compensated")


@pytest.mark.parametrize(
    ("template", "shape", "effective_batch"),
    [("lenet_digits", "1x8x8", 256), ("resnet50", "3x256x256", 64)],
)
def test_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, shape: str, effective_batch: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(
        "plan", template, "--input-shape", f"data={shape}", "--gpu-memory", "8GiB",
        "--effective-batch", effective_batch, "--out", "job", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    note, solver_note = done.err.splitlines()
    assert note.startswith(f"note: template {template} with its defaults; ")
    assert solver_note.startswith("note: no solver was given; ")
    plan = json.loads(done.out)
    assert plan["batch_size"] * plan["iter_size"] == effective_batch
    assert plan["predicted_peak_bytes"] <= 2**33 - 2**29
    assert json.loads((tmp_path / "job" / "plan.json").read_text())["working_directory"] == str(
        tmp_path
    )
    net = prototxt.read_net("job/net.prototxt")
    train = next(layer for layer in net.layer if layer.type == "Data")
    assert train.data_param.batch_size == plan["batch_size"]


def test_a_template_without_its_data_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("plan", "lenet_digits", "--gpu-memory", "8GiB")
    assert done.code == 2
    assert done.err.splitlines()[-3:] == [
        "caffe-batch: layer 'data': the size of 'data' is not known: source 'digits_train_lmdb' "
        f"is not in {tmp_path}",
        "Or give the size: --input-shape data=CxHxW.",
        "All in one: caffe-batch plan lenet_digits --gpu-memory 8GiB --input-shape data=CxHxW",
    ]


def test_as_a_real_child(folder: Path) -> None:
    options = ("--effective-batch", 24, *budget(6), "--out", "job", "--json")
    done = spawn(PROGRAM, "plan", "solver.prototxt", *options, cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["batch_size"] == 6
    assert (folder / "job" / "plan.json").is_file()
