"""The library as its users call it: every function, what it returns, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import caffe_batch as cb
from caffe_batch import api
from caffe_batch.experiments import verify as verify_module
from caffe_batch.jobs.metrics import UpdateMetrics
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training import Progress
from tests.command import call, tree
from tests.experiments.measuring import INPUT, LOSS, SOLVER, forked, inner_product
from tests.planned_jobs import NET, RECORDS, write_lmdb
from tests.small_memory import BATCH, SMALL, read_model, tight, write_recipe

GIB = 2**30


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a solver, its net and its data."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    return tmp_path


def budget(recipe: Path) -> dict[str, Any]:
    """The arguments that leave room for passes of SMALL samples."""
    return {"gpu_memory": tight(read_model(recipe / "solver.prototxt")).budget_bytes, "reserve": 0}


# The package


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = (
        "import sys; import caffe_batch as cb; dir(cb); "
        "print({'google', 'jinja2', 'rich', 'numpy', 'click'} & {m.split('.')[0] for m in "
        "sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in cb.__all__:
        assert getattr(cb, name).__doc__, name
        assert name in dir(cb)
    with pytest.raises(AttributeError, match="has no attribute 'plans'"):
        _ = cb.plans  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["cb.memory", "import caffe_batch.memory", "cb.plan"])
def test_memory_is_a_function_and_a_package(first: str) -> None:
    """Whichever is used first: importing the package binds its name in caffe_batch."""
    code = (
        f"import caffe_batch as cb; {first}\n"
        "from caffe_batch.memory import predict\n"
        "import caffe_batch.memory as package\n"
        "assert package.predict is predict\n"
        "print(cb.memory('lenet_digits', input_shape='data=1x8x8', batch_size=16).peak_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1256064\n", "")


def test_nothing_is_printed(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = cb.plan("solver.prototxt", **budget(recipe))
    repr(plan), plan._repr_html_()
    cb.memory("caffenet", input_shape={"data": (3, 256, 256)})
    cb.strategies("solver.prototxt", **budget(recipe)).write("ways")
    plan.write("job").status()
    assert capfd.readouterr() == ("", "")


# plan


def test_plan_as_the_command_does(recipe: Path) -> None:
    found = cb.plan("solver.prototxt", effective_batch=48, lr_scaling="linear", **budget(recipe))
    memory = budget(recipe)["gpu_memory"]
    done = call(
        "plan", "solver.prototxt", "--effective-batch", 48, "--lr-scaling", "linear",
        "--gpu-memory", f"{memory}B", "--reserve", 0, "--json",
    )  # fmt: skip
    assert {**found.json(), "files": {}} == json.loads(done.out)
    assert (found.batch_size, found.iter_size, found.effective_batch) == (SMALL, 12, 48)
    assert repr(found).startswith("<Plan 48 = 4 x 12, ")


@pytest.mark.parametrize("memory", ["8GiB", "8589934592", 8 * GIB])
def test_sizes_are_texts_or_bytes(memory: str | int, recipe: Path) -> None:
    found = cb.plan("solver.prototxt", gpu_memory=memory, reserve="1MB")
    assert (found.budget.budget_bytes, found.budget.reserve_bytes) == (8 * GIB, 10**6)


@pytest.mark.parametrize("tolerance", ["10%", 0.1])
def test_shares_are_texts_or_numbers(tolerance: str | float, recipe: Path) -> None:
    found = cb.plan(
        "solver.prototxt", effective_batch=25, tolerance=tolerance, batch_size=4, gpu_memory="1GiB"
    )
    assert found.effective_batch == 24


@pytest.mark.parametrize("epochs", ["0.5", 0.5])
def test_epochs_are_texts_or_numbers(epochs: str | float, recipe: Path) -> None:
    found = cb.plan("solver.prototxt", epochs=epochs, gpu_memory="1GiB")
    changes = {change.field: change.after for change in found.changes}
    assert changes["max_iter"] == round(RECORDS / BATCH / 2)


@pytest.mark.parametrize(
    "shape",
    ["data=3x256x256", ["data=3x256x256"], {"data": (3, 256, 256)}, {"data": [3, 256, 256]}],
)
def test_shapes_are_texts_or_a_mapping(shape: Any) -> None:
    assert cb.memory("caffenet", input_shape=shape, batch_size=64).peak_bytes == 1468277096


def test_what_was_said_of_the_files_is_in_the_result() -> None:
    found = cb.plan("caffenet", gpu_memory="8GiB", input_shape="data=3x256x256")
    template, solver = found.file_notes
    assert template.startswith("template caffenet with its defaults")
    assert solver == (
        "no solver was given; caffenet's is from Caffe 1.0, models/bvlc_reference_caffenet: "
        "90 epochs, of 1,281,167 records, since yours can't be counted"
    )
    assert found.recipe.solver_path is None


def test_a_templates_files_stay_until_the_plan_is_written(tmp_path: Path) -> None:
    job = cb.plan("caffenet", gpu_memory="8GiB", input_shape="data=3x256x256").write(
        tmp_path / "job"
    )
    assert "template" in job.files.net.read_text() or job.files.net.stat().st_size > 1000
    assert job.plan.batch_size == 256


def test_written_without_a_second_look(recipe: Path) -> None:
    job = cb.plan("solver.prototxt", **budget(recipe)).write("job")
    assert repr(job) == f"<Job {recipe / 'job'}: planned>"
    assert job.files.solver.is_file()
    assert (job.record, job.metrics) == (None, ())
    assert (job.plan.batch_size, job.plan.iter_size) == (SMALL, BATCH // SMALL)
    assert repr(cb.Job("elsewhere")) == f"<Job {recipe / 'elsewhere'}: not planned>"


# Errors


@pytest.mark.parametrize(
    ("arguments", "message", "remedies"),
    [
        ({}, "how much memory may the run use", [("gpu_memory", "8GiB"), ("gpu_memory", "auto")]),
        ({"tolerance": 5}, "tolerance: 5 is not a share", [("tolerance", "5%")]),
        ({"tolerance": "5"}, "tolerance: '5' is not a share", [("tolerance", "5%")]),
        ({"tolerance": float("nan")}, "tolerance: nan is not a share", [("tolerance", "5%")]),
        ({"epochs": 0}, "epochs: 0 is not a number of epochs", [("epochs", 10)]),
        ({"epochs": float("inf")}, "epochs: inf is not a number of epochs", [("epochs", 10)]),
        ({"batch_size": 0}, "batch_size is 0", [("batch_size", 1)]),
        ({"batch_size": 2.5}, "batch_size is 2.5", [("batch_size", 1)]),
        ({"gpu": True}, "gpu is True", [("gpu", 0)]),
        ({"lr_scaling": "liner"}, "lr_scaling: there is no 'liner'", []),
        ({"build": "cudnnn"}, "build: there is no 'cudnnn'", []),
        ({"input_shape": "data"}, "input_shape 'data' is not", [("input_shape", "data=3x256x256")]),
        (
            {"input_shape": {"data": ()}},
            "input_shape names top 'data', which no layer of the net",
            [],
        ),
        (
            {"keep_schedule": True, "epochs": 3},
            "keep_schedule and epochs contradict each other",
            [],
        ),
        (
            {"gpu_memory": "1GiB", "reserve": "2GiB"},
            "the reserve of 2 GiB leaves nothing of 1 GiB",
            [("reserve", 0)],
        ),
        ({"effective_batch": 0, "gpu_memory": "1GiB"}, "has no samples", []),
        (
            {"effective_batch": 25, "batch_size": 4, "gpu_memory": "1GiB"},
            "can't be made with batch_size 4",
            [("effective_batch", 24), ("tolerance", "5%")],
        ),
    ],
)
def test_what_plan_refuses(
    arguments: dict[str, Any], message: str, remedies: list[tuple[str, object]]
) -> None:
    net = 'layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 25 dim: 3 } } }\n'
    net += 'layer { name: "loss" type: "Reduction" bottom: "in" top: "loss" loss_weight: 1 }'
    Path("net.prototxt").write_text(net)
    with pytest.raises(cb.InputError, match=message) as caught:
        cb.plan("net.prototxt", **arguments)
    assert [(option.name, option.value) for option in caught.value.remedies] == remedies
    assert "--" not in str(caught.value)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_same_error_in_two_spellings() -> None:
    with pytest.raises(cb.InputError) as caught:
        cb.plan("caffenet", input_shape="data=3x256x256")
    error = caught.value
    assert error.hint == 'Give gpu_memory="8GiB", or gpu_memory="auto" to ask the GPU.'
    assert error.in_shell().endswith(
        "\nGive --gpu-memory 8GiB, or --gpu-memory auto to ask the GPU."
    )
    assert error.notes == (cb.memory("caffenet", input_shape="data=3x256x256").file_notes)


def test_a_net_that_does_not_fit() -> None:
    with pytest.raises(cb.DoesNotFitError, match="batch_size 1 needs ") as caught:
        cb.plan("caffenet", gpu_memory="100MiB", reserve=0, input_shape="data=3x256x256")
    assert caught.value.missing_bytes > 0
    assert "caffe_batch.memory()" in str(caught.value)
    assert len(caught.value.notes) == 2


# memory


def test_memory_as_the_command_does() -> None:
    found = cb.memory("caffenet", batch_size=64, input_shape="data=3x256x256")
    done = call("memory", "caffenet", "--batch-size", 64, "--input-shape", "data=3x256x256",
                "--json")  # fmt: skip
    assert found.json() == json.loads(done.out)
    assert repr(found) == "<Memory batch_size 64: 1.37 GiB of GPU memory>"
    assert found.at([64])[64] == found.peak_bytes


def test_memory_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    found = cb.memory("lenet_digits", input_shape="data=1x8x8")
    picture = found.plot(tmp_path / "memory.png", budget="2MiB")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(cb.InputError, match=r"a picture ends in .png or .svg"):
        found.plot(tmp_path / "memory.txt")


# Training


def test_plan_write_train_report(
    tmp_path: Path, runtime: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    """The three lines of the README on real Caffe."""
    Path("net.prototxt").write_text(
        NET.format(data=write_lmdb(tmp_path / "data"), batch_size=12, width=8)
    )
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 20 random_seed: 1\n'
        "test_iter: 7 test_interval: 10\n"
    )
    seen: list[Progress] = []
    job = cb.plan("solver.prototxt", batch_size=4, gpu_memory="2GiB").write("job")
    outcome = job.train(runtime=runtime, observer=seen.append)
    page = job.report("report.html")

    assert (outcome.state, outcome.update, outcome.updates) == (JobState.FINISHED, 20, 20)
    assert repr(outcome).startswith("<Outcome finished: 20 of 20 updates, accuracy ")
    assert outcome.job is job
    assert outcome.notes == ()
    assert seen[-1].update == 20
    losses = [line for line in job.metrics if isinstance(line, UpdateMetrics)]
    assert losses[-1].update == 20
    assert losses[-1].samples == 20 * 12
    assert page == Path("report.html")
    assert "<title>" in page.read_text()
    assert (job.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    html = outcome._repr_html_()
    assert "20 of 20 updates" in html
    assert "<polyline" in html
    assert job.status().state.value == "finished"
    again = job.train(runtime=runtime)
    assert (again.ran, again.update) == (False, 20)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu": True, "gpu": 1}, "cpu and gpu exclude each other"),
        ({"threads": 0}, "threads is 0"),
        ({"on_divergence": "rollback:2"}, "'rollback:2' is neither stop nor rollback:FACTOR"),
        ({"stall_timeout": 0}, "stall_timeout is 0"),
        ({"weights": "a.caffemodel", "snapshot": "b_iter_1.solverstate"}, "weights and snapshot"),
        ({"noise_scale": True}, "noise_scale compares the micro-batches of an update"),
    ],
)
def test_what_train_refuses(
    options: dict[str, Any], message: str, recipe: Path, runtime: Runtime
) -> None:
    job = cb.plan("solver.prototxt", gpu_memory="2GiB").write("job")
    before = tree(job.path)
    with pytest.raises(cb.InputError, match=message) as caught:
        job.train(runtime=runtime, **options)
    assert "--" not in str(caught.value)
    assert {path for path in tree(job.path) if not path.startswith(".worker")} == set(before)


def test_a_plan_says_before_it_is_written_that_it_cant_be_trained(recipe: Path) -> None:
    plan = cb.plan("solver.prototxt", gpus=2, gpu_memory="2GiB")
    with pytest.raises(cb.InputError, match="the plan is for 2 GPUs, but with") as caught:
        plan.check_trains()
    remedies = [(each.name, each.value) for each in caught.value.remedies]
    assert remedies == [("gpus", 1), ("engine", "pytorch")]


def test_the_noise_scale_is_measured_on_one_gpu(recipe: Path) -> None:
    plan = cb.plan("solver.prototxt", gpus=2, gpu_memory="2GiB", engine="pytorch")
    plan.check_trains()
    with pytest.raises(cb.InputError, match="measures on one GPU, and the plan is for 2"):
        plan.check_trains(noise_scale=True)


def test_nothing_to_stop_and_nothing_to_follow(recipe: Path) -> None:
    job = cb.plan("solver.prototxt", gpu_memory="2GiB").write("job")
    with pytest.raises(cb.InputError, match="nothing is running here; the job is planned"):
        job.stop()
    with pytest.raises(cb.InputError, match="nothing has been trained here yet") as caught:
        job.follow()
    assert f"Job({str(job.path)!r}).train()" in str(caught.value)


# verify, strategies, compare, noise, render


def test_verify(pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "run_verification", forked(pycaffe))
    Path("net.prototxt").write_text(INPUT + inner_product() + LOSS)
    Path("clip.prototxt").write_text(f'{SOLVER} net: "net.prototxt" clip_gradients: 0.01')
    found = cb.verify("clip.prototxt")
    assert found.agrees
    assert found.judgement.held
    assert repr(found).startswith("<Verification 4 x 3 agrees: gradient ")
    found.check()
    refused = cb.verify("clip.prototxt", no_compensate="clip_gradients", iter_size=2)
    assert (refused.agrees, refused.judgement.promised) == (False, False)
    with pytest.raises(cb.InputError, match=r"iter_size is 1, but must be .* at least 2"):
        cb.verify("clip.prototxt", iter_size=1)


def test_strategies_and_compare(recipe: Path, runtime: Runtime) -> None:
    found = cb.strategies("solver.prototxt", **budget(recipe))
    assert repr(found).startswith(f"<Strategies for {BATCH} samples an update: ")
    small = found["small"].plan
    assert small is not None
    assert (small.batch_size, small.iter_size) == (SMALL, 1)
    with pytest.raises(KeyError, match="Did you mean small"):
        _ = found["smal"]
    directory = found.write("ways")
    compared = cb.compare(directory, strategy=["accumulate", "small"], seeds=2, runtime=runtime)
    assert repr(compared) == "<Comparison of 2 ways with 2 seeds in ways>"
    assert [standing.name for standing in compared.standings] == ["accumulate", "small"]
    assert all(len(each.complete) == 2 for each in compared.standings)
    assert json.loads((directory / "compare.json").read_text())["seeds"] == [1, 2]
    with pytest.raises(cb.InputError, match="epochs: ways holds its strategies already"):
        cb.compare(directory, epochs=3, runtime=runtime)
    with pytest.raises(cb.InputError, match="where do the trainings go"):
        cb.compare("solver.prototxt", runtime=runtime, **budget(recipe))
    with pytest.raises(cb.InputError, match="was begun with another epochs: None, not 3"):
        cb.compare("solver.prototxt", out="ways", epochs=3, runtime=runtime, **budget(recipe))


def test_noise(recipe: Path, runtime: Runtime) -> None:
    groups: list[int] = []
    found = cb.noise(
        "solver.prototxt", batch_size=4, groups=5, passes=4, runtime=runtime, observer=groups.append
    )
    assert groups == [1, 2, 3, 4, 5]
    assert found.effective_batch == BATCH
    assert found.advice.effective_batch == BATCH
    assert found.json()["advice"] == found.advice.json()
    assert repr(found) == f"<Noise scale {found.noise}, effective batch {BATCH}>"
    with pytest.raises(cb.InputError, match=r"groups is 4, but must be .* at least 5"):
        cb.noise("solver.prototxt", groups=4, runtime=runtime)


def test_render() -> None:
    assert "batch_size: 32" in cb.render("lenet_digits", {"batch_size": 32})
    names = [template.name for template in cb.templates()]
    assert {"caffenet", "lenet_digits", "solver"} <= set(names)
    with pytest.raises(cb.InputError, match="lenet_digit"):
        cb.render("lenet_digit")


def test_reports_of_several_jobs(recipe: Path) -> None:
    jobs = [
        cb.plan("solver.prototxt", gpu_memory=memory).write(name)
        for name, memory in (("one", "1GiB"), ("two", "2GiB"))
    ]
    page = cb.report(jobs, out="both.html")
    assert all(job.path.name in page.read_text() for job in jobs)
    assert cb.report([jobs[0].path]) == jobs[0].path / "report.html"


def test_api_has_what_the_package_has() -> None:
    functions = {name for name in api.__all__ if isinstance(getattr(api, name), types.FunctionType)}
    assert functions - set(cb.__all__) == {  # only for the command line
        "check_device", "find_runtime", "find_template", "find_trainer", "read_runs", "run_shell",
        "train_options",
    }  # fmt: skip


@pytest.mark.parametrize("function", [cb.strategies, cb.noise])
def test_what_reads_data_looks_at_it_first(
    function: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label beyond the classes makes Caffe write beyond its memory; plan and train refuse it."""
    data = write_lmdb(tmp_path / "data")
    net = NET.format(data=data, batch_size=6, width=8).replace("num_output: 4", "num_output: 3")
    (tmp_path / "net.prototxt").write_text(net)
    monkeypatch.chdir(tmp_path)
    options = (
        {"gpu_memory": "1GiB"} if function is cb.strategies else {"runtime": Interpreter("none")}
    )
    with pytest.raises(cb.InputError, match="label is 3, but this layer takes 0 to 2"):
        function("net.prototxt", **options)
