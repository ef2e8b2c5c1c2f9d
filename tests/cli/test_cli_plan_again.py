"""A job that is planned again and again remains the training of its recipe, on real Caffe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.supervisor import train
from tests.command import call
from tests.planned_jobs import write_lmdb

#: Three causes that depend on iter_size: a loss that is a sum, a moving average, a clipped norm.
NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: 12 }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "data" top: "bn" propagate_down: false }}
layer {{ name: "away" type: "Silence" bottom: "bn" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 0.5 loss_param {{ normalization: NONE }} }}
"""
SOLVER = """
net: "{net}" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 random_seed: 1 max_iter: 4
clip_gradients: 1.5 display: 1 snapshot: 4
"""


def plan_again(
    solver: Path, job: Path, batch_size: int, *options: str
) -> dict[str, tuple[object, object]]:
    """Plans a job at a batch size with effective batch 12; what it changes, by field."""
    done = call(
        "plan", solver, "--mode", "cpu", "--gpu-memory", "1GiB", "--out", job,
        "--effective-batch", 12, "--batch-size", batch_size, *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    changes = json.loads((job / "plan.json").read_text())["changes"]
    return {change["field"]: (change["from"], change["to"]) for change in changes}


def weights_of(job: Path, runtime: Runtime) -> list[float]:
    directory = JobDirectory(job)
    train(directory, runtime)
    net = caffe_pb2.NetParameter()
    net.ParseFromString(list_snapshots(directory.snapshots)[-1].weights.read_bytes())
    (layer,) = (layer for layer in net.layer if layer.name == "ip")
    return [number for blob in layer.blobs for number in blob.data]


def test_a_job_planned_again_is_the_same_training(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET.format(data=write_lmdb(tmp_path / "data")))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.format(net=tmp_path / "net.prototxt"))
    jobs = [tmp_path / name for name in ("whole", "four", "two", "back", "own")]
    whole, four, two, back, own = jobs
    plan_again(solver, whole, 12)
    plan_again(solver, four, 4)
    changes = plan_again(four / "solver.prototxt", two, 2)
    assert changes["clip_gradients"] == (4.5, 9.0)
    assert changes['layer "loss" loss_weight[0]'] == (1.5, 3.0)
    changes = plan_again(two / "solver.prototxt", back, 12)
    assert changes["clip_gradients"] == (9.0, 1.5)
    assert changes['layer "loss" loss_weight[0]'] == (3.0, 0.5)
    assert changes["iter_size"] == (6, 1)
    changes = plan_again(two / "solver.prototxt", own, 2)
    assert changes.keys().isdisjoint({"clip_gradients", 'layer "loss" loss_weight[0]'})

    straight = weights_of(whole, runtime)
    plan_again(solver, tmp_path / "clipped", 4, "--no-compensate", "clip_gradients")
    assert weights_of(tmp_path / "clipped", runtime) != pytest.approx(straight, rel=1e-2, abs=1e-3)
    for job in (four, two, back, own):
        assert weights_of(job, runtime) == pytest.approx(straight, rel=1e-5, abs=1e-7), job.name


def test_a_job_for_two_gpus_planned_again(tmp_path: Path) -> None:
    """Its sums are for two GPUs, and so is its schedule: plan.json beside the solver tells."""
    (tmp_path / "net.prototxt").write_text(NET.format(data=write_lmdb(tmp_path / "data")))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.format(net=tmp_path / "net.prototxt"))
    weight = 'layer "loss" loss_weight[0]'
    two = tmp_path / "two"
    changes = plan_again(solver, two, 3, "--mode", "gpu", "--gpus", "2", "--iter-size", "2")
    assert changes["clip_gradients"] == (1.5, 3.0)
    assert changes[weight] == (0.5, 2.0)
    one = plan_again(two / "solver.prototxt", tmp_path / "one", 12, "--mode", "gpu")
    assert (one["clip_gradients"], one[weight]) == ((3.0, 1.5), (2.0, 0.5))
    assert "max_iter" not in one
    four = plan_again(two / "solver.prototxt", tmp_path / "four", 1, "--mode", "gpu", "--gpus", "4")
    assert (four["clip_gradients"], four[weight]) == ((3.0, 4.5), (2.0, 6.0))
    assert "max_iter" not in four
    # The default effective batch is the job's, on one GPU as well.
    done = call("plan", two / "solver.prototxt", "--gpu-memory", "1GiB", "--json")
    assert json.loads(done.out)["effective_batch"] == 12
    # Other files beside a plan aren't the job's.
    (two / "mine.prototxt").write_text((two / "solver.prototxt").read_text())
    done = call("plan", two / "mine.prototxt", "--gpu-memory", "1GiB", "--json")
    assert json.loads(done.out)["effective_batch"] == 6


def test_a_stage_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET.format(data=write_lmdb(tmp_path / "data")))
    solver = tmp_path / "solver.prototxt"
    text = SOLVER.format(net=tmp_path / "net.prototxt").replace('"fixed"', '"step"')
    solver.write_text(text + "gamma: 0.5 stepsize: 2")
    job = tmp_path / "job"
    plan_again(solver, job, 6, "--schedule", "grow", "--max-batch", "60")
    again = job / "solver.prototxt"
    done = call("plan", again, "--mode", "cpu", "--gpu-memory", "1GiB", "--out", tmp_path / "again")
    assert done.code == 2
    assert "is stage 1 of 2 of a job whose batch grows, and no recipe by itself" in done.err
    assert not (tmp_path / "again").exists()


def test_a_plan_that_train_cannot_run_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET.format(data=write_lmdb(tmp_path / "data")))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.format(net=tmp_path / "net.prototxt"))
    job = tmp_path / "job"
    done = call("train", solver, "--gpus", 2, "--effective-batch", 24, "--gpu-memory", "1GiB",
                "--reserve", 0, "--out", job)  # fmt: skip
    assert done.code == 2
    assert "the plan is for 2 GPUs, but with" in done.err
    assert not job.exists()


def test_for_how_many_gpus_the_files_are_taken(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET.format(data=write_lmdb(tmp_path / "data")))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.format(net=tmp_path / "net.prototxt"))
    one = "one GPU, 12 samples an update"
    several = "4 GPUs, 48 samples an update"

    def note(*options: object) -> list[str]:
        done = call("plan", solver, "--gpu-memory", "1GiB", "--reserve", 0, "--json", *options)
        assert done.code == 0, done.err
        return [each for each in json.loads(done.out)["notes"] if "are assumed to be" in each]

    assert note() == []
    assert note("--gpus", 4) == [
        f"The files are assumed to be for {several}; a recipe batch of 12 means {one}."
    ]
    assert note("--gpus", 4, "--effective-batch", 24) == [
        f"The files are assumed to be for {one}; a recipe batch of 48 means {several}."
    ]
    assert note("--gpus", 4, "--recipe-batch", 12) == []
