"""A job whose engine changes on the way."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_batch import engines, runtimes
from caffe_batch.api import find_trainer
from caffe_batch.engines.base import Engine
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.torch.snapshots import read_weights
from caffe_batch.errors import InputError, RuntimeMissingError, TrainingError
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.planning.precision import Precision
from caffe_batch.reporting.report_data import read_run
from caffe_batch.reporting.report_page import render_report
from caffe_batch.reporting.status_view import status_lines
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.following import RunFollower
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.engines.torch.in_process import train_here
from tests.planned_jobs import NET, attempts_of, write_job, write_lmdb

SIGNALLED = Path(__file__).with_name("signalled_worker.py")

OWN_LAYER = """
import caffe

class Nothing(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass
"""


def of_pytorch() -> Runtime:
    return runtimes.find(None, engines.find("pytorch"))


def test_it_continues_where_the_other_was(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=10)
    train(job, runtime)
    job.solver.write_text(job.solver.read_text().replace("max_iter: 10", "max_iter: 20"))
    train(job, of_pytorch(), Options(engine="pytorch"))
    job.solver.write_text(job.solver.read_text().replace("max_iter: 20", "max_iter: 30"))
    train(job, runtime, Options(engine="caffe"))
    ran = attempts_of(job)
    assert [each.engine for each in ran] == ["caffe", "pytorch", "caffe"]
    assert [each.first_update for each in ran] == [0, 10, 20]
    assert "PyTorch continues where Caffe stopped." in ran[1].choices
    assert any("its memory figures are Caffe's" in each for each in ran[1].choices)
    assert "Caffe continues where PyTorch stopped." in ran[2].choices
    found = list_snapshots(job.snapshots)
    assert [each.update for each in found] == [10, 20, 30]
    assert [each.moment.exists() for each in found] == [False, True, False]
    with closing(RunFollower(job)) as follower:
        status = follower.status()
    assert status.json()["engine"] == "caffe"
    assert "engine:   Caffe 1.0.0" in status_lines(job, status)
    page = render_report([read_run(job)])
    assert re.findall(r"<td>(Caffe|PyTorch)</td>", page) == ["Caffe", "PyTorch", "Caffe"]
    assert "<tr><th>Caffe</th><td>1.0.0</td></tr>" in page


def test_killed_on_either_engine_it_goes_on_with_the_other(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the newest whole snapshot, at its record: to the weights of a run on Caffe alone."""
    jobs = []
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        jobs.append(write_job(tmp_path / name, max_iter=30, snapshot=5))
    straight, job = jobs
    train(straight, runtime)
    for engine, passes in (("pytorch", 3 * 13), ("caffe", 3 * 9)):
        monkeypatch.setenv("SIGNALLED", f"{passes},SIGKILL")
        found = runtime if engine == "caffe" else of_pytorch()
        with pytest.raises(TrainingError, match="killed by SIGKILL"):
            train(job, found, Options(engine=engine), script=SIGNALLED)
    newest = list_snapshots(job.snapshots)[-1]
    assert newest.update == 15
    newest.record.unlink()  # killed before it was found to be whole
    newest.state.write_bytes(newest.state.read_bytes()[:-9])
    assert train(job, of_pytorch(), Options(engine="pytorch")).update == 30
    ran = attempts_of(job)
    assert [(each.engine, each.first_update) for each in ran] == [
        ("pytorch", 0), ("caffe", 10), ("pytorch", 10),
    ]  # fmt: skip
    assert any("The snapshot of update 15 is not whole" in each for each in ran[-1].choices)
    updates = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert [line.update for line in updates] == list(range(1, 31))
    ends = [
        [values for layer in read_weights(last.weights).values() for _, values in layer.values()]
        for last in (list_snapshots(each.snapshots)[-1] for each in jobs)
    ]
    for mine, theirs in zip(*ends, strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_caffe_says_what_it_cannot_keep_of_a_run_with_dropout(
    runtime: Runtime, tmp_path: Path
) -> None:
    drop = 'layer {{ name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }}\n'
    net = NET.replace('layer {{\n  name: "ip2"', drop + 'layer {{\n  name: "ip2"').format(
        data=write_lmdb(tmp_path / "data"), batch_size=6, width=8
    )
    job = write_job(tmp_path, net=net, max_iter=10)
    train(job, of_pytorch(), Options(engine="pytorch"))
    job.solver.write_text(job.solver.read_text().replace("max_iter: 10", "max_iter: 20"))
    train(job, runtime, Options(engine="caffe"))
    (drawn,) = [each for each in attempts_of(job)[-1].choices if each.startswith("Random numbers")]
    assert drawn == (
        "Random numbers are drawn anew, as Caffe's snapshots don't hold their state: 'drop'."
    )


def test_a_run_goes_on_with_the_engine_that_ran_last(runtime: Runtime, tmp_path: Path) -> None:
    """Also where its plan is for another one, whose Python this is not."""
    (tmp_path / "own_layer.py").write_text(OWN_LAYER)
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8) + (
        'layer { name: "own" type: "Python" bottom: "label" '
        'python_param { module: "own_layer" layer: "Nothing" } }'
    )
    job = write_job(tmp_path, net=net, max_iter=10)
    pytorch = of_pytorch()
    train(job, pytorch, Options(engine="pytorch"))
    job.solver.write_text(job.solver.read_text().replace("max_iter: 10", "max_iter: 20"))
    assert train(job, pytorch).update == 20
    assert [each.engine for each in attempts_of(job)] == ["pytorch", "pytorch"]


def test_another_engine_takes_the_place_of_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch = of_pytorch()
    monkeypatch.delenv(runtimes.VARIABLE, raising=False)

    def find(spec: str | None, engine: Engine) -> Runtime:
        if engine.name == "caffe":
            raise RuntimeMissingError("no Caffe was found: this Python has no module caffe")
        return pytorch

    monkeypatch.setattr(runtimes, "find", find)
    trainer = find_trainer(None, None, "caffe")
    assert (trainer.engine, trainer.runtime) == ("pytorch", pytorch)
    assert trainer.notes == (
        "No Caffe was found: this Python has no module caffe. PyTorch trains instead.",
    )
    for asked in ({"engine": "caffe", "runtime": None}, {"engine": None, "runtime": "debian-11"}):
        with pytest.raises(RuntimeMissingError, match="no Caffe was found"):
            find_trainer(**asked, usual="caffe")


def test_caffe_has_one_precision(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(InputError, match="Caffe calculates in float32, not in tf32"):
        train(job, runtime, Options(precision=Precision.TF32))
    assert not job.snapshots.exists()


def test_the_planned_precision_is_taken_and_a_change_is_told(
    runtime: Runtime, tmp_path: Path
) -> None:
    job = write_job(tmp_path, max_iter=2)
    content = json.loads(job.plan.read_text())
    job.plan.write_text(json.dumps({**content, "engine": "pytorch", "precision": "bf16"}))
    train(job, of_pytorch())
    for last, options, on in (
        (4, Options(precision=Precision.TF32), of_pytorch()),
        (6, Options(engine="caffe"), runtime),
    ):
        job.solver.write_text(job.solver.read_text().replace(f": {last - 2}\n", f": {last}\n", 1))
        train(job, on, options)
    planned, asked, of_caffe = attempts_of(job)
    assert [each.precision for each in (planned, asked, of_caffe)] == [
        Precision.BF16,
        Precision.TF32,
        Precision.FLOAT32,
    ]
    assert not any("bf16" in each for each in planned.choices)
    told = "\n".join(asked.choices)
    assert "Different: the plan is for bf16, and this run computes in tf32." in told
    assert "Until now the run computed in bf16; it continues in tf32." in told
    assert "tf32 has no effect on the CPU: it calculates in float32, as Caffe does." in told
    assert "The plan is for bf16; Caffe computes in float32." in of_caffe.choices


@pytest.mark.parametrize(
    ("fields", "option", "says"),
    [
        ({"type": '"Adam"'}, "snapshot", "it is from a solver of another type: 1 history blob"),
        ({"width": 9}, "snapshot", "parameter 0 of layer 'ip1' is 8 x 35 there and 9 x 35 in the"),
        ({"width": 9}, "weights", "parameter 0 of layer 'ip1' is 8 x 35 there and 9 x 35 in the"),
        ({"other": True}, "snapshot", "no layer of the net has weights in"),
        ({"other": True}, "weights", "no layer of the net has weights in"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_pytorch_starts(
    tmp_path: Path, fields: dict[str, Any], option: str, says: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    source = write_job(tmp_path / "one", max_iter=1)
    assert train_here(source.solver) == 0
    (state,) = list_snapshots(source.path)
    other = fields.pop("other", False)
    job = write_job(tmp_path / "two", **fields)
    if other:
        text = job.net.read_text()
        job.net.write_text(text.replace('"ip1"', '"fc1"').replace('"ip2"', '"fc2"'))
    given = {"snapshot": state.state} if option == "snapshot" else {"weights": (state.weights,)}
    nowhere = Interpreter("/nowhere/python")  # it isn't started
    with pytest.raises(InputError) as refused:
        train(job, nowhere, Options(engine="pytorch", **given))
    assert says in refused.value.message
    assert not job.snapshots.exists()
    assert job.read_record() is None
