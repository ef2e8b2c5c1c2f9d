"""The options of ``caffe-batch plan`` that shape the split, the schedule and the compensations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.cli.options import COMPENSATED as OFFERED
from caffe_batch.planning.audit.findings import COMPENSATED
from caffe_batch.prototxt import read_net, read_solver
from tests.command import call, tree
from tests.planned_jobs import NET, RECORDS, write_lmdb

BATCH = 12  # TRAIN batch_size in net.prototxt
SOLVER = """\
net: "net.prototxt"
base_lr: 0.1  lr_policy: "multistep"  gamma: 0.5  momentum: 0.9  clip_gradients: 35
max_iter: 240  stepvalue: [120, 180]
test_iter: 7  test_interval: 60  snapshot: 60
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lmdb(tmp_path_factory.mktemp("data") / "lmdb")


@pytest.fixture
def folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=BATCH, width=8))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*options: object) -> dict[str, Any]:
    done = call("plan", "solver.prototxt", "--gpu-memory", "2GiB", *options, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def changed(answer: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {change["field"]: (change["from"], change["to"]) for change in answer["changes"]}


def test_pinned_factors(folder: Path) -> None:
    answer = plan("--batch-size", 4)
    assert (answer["batch_size"], answer["iter_size"]) == (4, 3)
    answer = plan("--iter-size", 4)
    assert (answer["batch_size"], answer["iter_size"]) == (3, 4)
    answer = plan("--batch-size", 5, "--iter-size", 3)
    assert answer["effective_batch"] == answer["requested_effective_batch"] == 15


def test_a_pinned_batch_that_doesnt_fit_exits_with_3(folder: Path) -> None:
    done = call("plan", "solver.prototxt", "--gpu-memory", "30KiB", "--reserve", 0,
                "--batch-size", 12)  # fmt: skip
    assert done.code == 3
    assert "batch_size 12 needs" in done.err


def test_a_tolerance_is_used_and_reported(folder: Path) -> None:
    answer = plan("--effective-batch", 13, "--tolerance", "10%", "--batch-size", 6)
    assert (answer["effective_batch"], answer["requested_effective_batch"]) == (12, 13)
    assert "12 instead of 13 (-7.69%)" in answer["notes"][0]


def test_multiples_are_preferred(folder: Path) -> None:
    answer = plan("--effective-batch", 36, "--prefer-multiple-of", 4)
    assert (answer["batch_size"], answer["iter_size"]) == (36, 1)
    small = ("--gpu-memory", "40KiB", "--reserve", 0, "--keep-tests")
    free = plan("--effective-batch", 36, *small)
    held = plan("--effective-batch", 36, *small, "--prefer-multiple-of", 4)
    assert held["batch_size"] % 4 == 0
    assert held["batch_size"] <= free["batch_size"]


def test_clipping_is_compensated_or_refused(folder: Path) -> None:
    answer = plan("--batch-size", 4)
    assert changed(answer)["clip_gradients"] == (35, 105)
    assert answer["verdict"].startswith("The same training as with the whole batch")
    refused = plan("--batch-size", 4, "--no-compensate", "clip_gradients")
    assert "clip_gradients" not in changed(refused)
    assert refused["verdict"] == (
        "Not quite the training of the whole batch in one pass: clip_gradients."
    )


def test_what_can_be_refused_is_what_is_compensated() -> None:
    assert tuple(cause.value for cause in COMPENSATED) == OFFERED


def test_another_batch_rescales_the_schedule(folder: Path) -> None:
    answer = plan("--effective-batch", 24)
    fields = changed(answer)
    assert fields["max_iter"] == (240, 120)
    assert (fields["stepvalue[0]"], fields["stepvalue[1]"]) == ((120, 60), (180, 90))
    assert (fields["test_interval"], fields["snapshot"]) == ((60, 30), (60, 30))
    assert "base_lr" not in fields
    assert "lr_scaling linear" in answer["notes"][0]
    assert changed(plan("--effective-batch", 24, "--lr-scaling", "sqrt"))["base_lr"] == (
        0.1, 0.14142136
    )  # fmt: skip
    kept = changed(plan("--effective-batch", 24, "--keep-schedule"))
    assert not {"max_iter", "test_interval", "snapshot"} & kept.keys()


def test_a_recipe_batch_says_what_the_schedule_was_for(folder: Path) -> None:
    fields = changed(plan("--effective-batch", 12, "--recipe-batch", 6))
    assert fields["max_iter"] == (240, 120)


def test_lengths_in_epochs(folder: Path) -> None:
    fields = changed(plan("--epochs", 6, "--test-every", 1, "--snapshot-every", "0.5"))
    assert fields["max_iter"] == (240, 35)  # 6 x 70 / 12
    assert fields["stepvalue[0]"][1] == 18  # half of the run, 17.5
    assert fields["test_interval"] == (60, 5)  # 5.83, and 35 is no multiple of 6
    assert fields["snapshot"] == (60, 3)  # 2.92


def test_a_run_shorter_than_its_intervals(folder: Path) -> None:
    answer = plan("--epochs", 5)
    fields = changed(answer)
    assert (fields["max_iter"], fields["test_interval"]) == ((240, 29), (60, 29))
    assert "snapshot" not in fields  # Caffe takes one after the last update
    assert "last update" not in " ".join(answer["notes"])


def test_what_is_lost_is_in_the_notes(folder: Path) -> None:
    notes = plan("--epochs", "0.3")["notes"]  # 2 updates, room for one drop
    assert notes == [
        "1 of the recipe's 2 drops of the rate don't happen: the run has 2 updates, and Caffe "
        "drops the rate at most once per update."
    ]


def test_test_records(folder: Path) -> None:
    answer = plan("--test-records", 35)
    assert answer["tests"] == [{"number": 0, "batch_size": 7, "test_iter": 5, "records": 35}]


def test_gpus_say_what_they_assume(folder: Path) -> None:
    answer = plan("--gpus", 2)
    assert (answer["effective_batch"], answer["batch_size"]) == (24, 12)
    assert "is for each of the 2 GPUs" in answer["notes"][0]
    assert "max_iter" not in changed(answer)  # the files mean 12 on each
    assert "max_iter" not in changed(plan("--gpus", 2, "--effective-batch", 12))


def test_growth(folder: Path) -> None:
    done = call("plan", "solver.prototxt", "--gpu-memory", "2GiB", "--schedule", "grow",
                "--batch-size", 4, "--max-batch", 40, "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    assert "growing to 40 = 4 x 10" in done.out
    content = json.loads(Path("job/plan.json").read_text())
    # 6 updates an epoch at 12; 3 at 24, 2 at 40: 20, 10 and 10 epochs.
    phases = content["stages"]
    assert [(each["effective_batch"], each["iter_size"]) for each in phases] == [
        (12, 3), (24, 6), (40, 10)
    ]  # fmt: skip
    assert [each["last_update"] for each in phases] == [120, 150, 170]
    # A test every 10 epochs, as in the recipe: at the bounds once.
    solvers = [read_solver(Path("job", each["solver"])) for each in phases]
    assert [
        update
        for solver, each in zip(solvers, phases, strict=True)
        for update in range(each["first_update"], each["last_update"] + 1)
        if update % solver.test_interval == 0
    ] == [0, 60, 120, 150, 170]
    # 6 updates an epoch at 12 are more than the 70 records.
    samples = 120 * 12 + 30 * 24 + 20 * 40
    assert f"40 of them see the records {samples / RECORDS:.6g} times" in content["notes"][0]
    # The compensation follows the phase.
    clips = [
        read_solver(Path("job", phase["solver"])).clip_gradients for phase in content["stages"]
    ]
    assert clips == [105, 210, 350]
    assert {read_net(Path("job", phase["net"])).layer[0].data_param.batch_size
            for phase in content["stages"]} == {4}  # fmt: skip
    assert "the batch grows by 2" in content["stages"][1]["reason"]


def test_hybrid(folder: Path) -> None:
    answer = plan("--schedule", "hybrid", "--max-batch", 40)
    assert [p["effective_batch"] for p in answer["stages"]] == [12, 24, 24]
    assert [p["base_lr"] for p in answer["stages"]] == [0.1, 0.1, 0.05]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--effective-batch", RECORDS + 1],
         "effective batch of 71 is more than the 70 records"),
        (["--effective-batch", 13, "--batch-size", 5], "13 can't be made with batch_size 5"),
        (["--tolerance", "5"], "is not a share below 100%, such as 5%"),
        (["--tolerance", "100%"], "below 100%"),
        (["--epochs", "0"], "not a number of epochs above 0"),
        (["--epochs", "many"], "not a number of epochs above 0"),
        (["--epochs", "3", "--keep-schedule"], "--keep-schedule and --epochs contradict"),
        (["--lr-scaling", "linear", "--keep-schedule"], "--keep-schedule and --lr-scaling"),
        (["--keep-tests", "--test-records", 10], "--keep-tests and --test-records contradict"),
        (["--test-records", 10, "--test-records", 20], "2 times for 1 test nets"),
        (["--max-batch", 40], "--max-batch is for a batch that grows"),
        (["--schedule", "grow", "--iter-size", 1], "--iter-size 1 and --schedule grow"),
        (["--schedule", "grow", "--keep-schedule"], "--keep-schedule and --schedule grow"),
        (["--schedule", "grow"], "can't grow: a tenth of the 70 records is 7"),
        (["--schedule", "grow", "--max-batch", 71], "more than the 70 records"),
        (["--no-compensate", "clip_gradient"], "clip_gradients"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(folder: Path, options: list[object], message: str) -> None:
    before = tree(folder)
    done = call("plan", "solver.prototxt", "--gpu-memory", "2GiB", *options, "--out", "job")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert tree(folder) == before


def test_a_gamma_too_near_1_cant_grow(folder: Path) -> None:
    (folder / "solver.prototxt").write_text(SOLVER.replace("gamma: 0.5", "gamma: 0.9"))
    grow = ("plan", "solver.prototxt", "--gpu-memory", "2GiB", "--schedule", "grow",
            "--max-batch", 60)  # fmt: skip
    before = tree(folder)
    done = call(*grow, "--out", "job")
    assert done.code == 2
    assert "of 12 can't grow: the recipe's drops ask for at most 14.8148 samples" in done.err
    assert "Give --batch-size 4: in passes of 4 samples it grows to 16." in done.err
    assert tree(folder) == before
    assert call(*grow, "--batch-size", 4).code == 0
    (folder / "solver.prototxt").write_text(SOLVER.replace("gamma: 0.5", "gamma: 0.99"))
    done = call(*grow)
    assert done.code == 2
    assert "--schedule decay: gamma is too close to 1" in done.err


@pytest.mark.parametrize("policy", ["fixed", "inv", "poly", "exp", "sigmoid"])
def test_policies_without_drops_cant_grow(folder: Path, policy: str) -> None:
    (folder / "solver.prototxt").write_text(SOLVER.replace("multistep", policy))
    done = call("plan", "solver.prototxt", "--gpu-memory", "2GiB", "--schedule", "grow")
    assert done.code == 2
    assert f"lr_policy '{policy}'" in done.err


def test_growth_and_epochs_need_the_records(folder: Path) -> None:
    (folder / "net.prototxt").write_text((folder / "net.prototxt").read_text().replace(
        str(folder), "x").replace("lmdb", "elsewhere"))  # fmt: skip
    shapes = ("--input-shape", "data=1x5x7")
    for options in (("--schedule", "grow"), ("--epochs", "3")):
        done = call("plan", "solver.prototxt", "--gpu-memory", "2GiB", *shapes, *options)
        assert done.code == 2
        assert "--train-records" in done.err
