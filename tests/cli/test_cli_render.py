"""``caffe-batch render``: stdout, files, lists of templates and variables, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.cli.main import main
from caffe_batch.prototxt import parse_net, parse_solver

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `caffe-batch render ARGUMENTS`: exit code, stdout, stderr."""

    def render(*arguments: str) -> tuple[int, str, str]:
        try:
            main(["render", *arguments])
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return render


def test_a_net_goes_to_stdout(run: Run) -> None:
    code, out, err = run("lenet_digits", "-D", "batch_size=64", "-D", "source_train=a=b,c")
    assert (code, err) == (0, "")
    data = parse_net(out).layer[0].data_param
    assert (data.batch_size, data.source) == (64, "a=b,c")


def test_a_solver_takes_lists(run: Run) -> None:
    arguments = ["-D", "lr_policy=multistep", "-D", "stepvalue=300,400", "-D", "gamma=0.1"]
    code, out, _ = run("solver", *arguments)
    assert code == 0
    assert list(parse_solver(out).stepvalue) == [300, 400]


def test_a_file_is_written_whole_and_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("old")
    assert run("resnet50", "-o", str(path)) == (0, "", f"wrote {path}\n")
    assert parse_net(path.read_text()).name == "ResNet-50"
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_an_error_leaves_the_file_as_it_was(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text("old")
    code, out, err = run("solver", "-D", "lr_policy=step", "-D", "gamma=1", "-o", str(path))
    assert (code, out) == (2, "")
    assert err.startswith("caffe-batch: template solver (solver.prototxt.j2, line ")
    assert "'stepsize' is undefined\nGive it with -D stepsize=VALUE" in err
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["solver.prototxt"]


def test_a_missing_folder_is_one_message(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "net.prototxt"
    code, out, err = run("lenet_digits", "--output", str(path))
    assert (code, out, err) == (1, "", f"caffe-batch: {path}: No such file or directory\n")


def test_my_own_templates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.prototxt.j2").write_text(
        "{#- Mine. -#}\nlayer { name: {{ title | quote }} type: 'Silence' }\n"
    )
    folder = ["--templates", str(tmp_path)]
    assert run("mine", *folder, "-D", "title=x")[:2] == (
        0,
        "layer { name: \"x\" type: 'Silence' }\n",
    )
    code, _, err = run("mine", *folder)
    assert code == 2
    assert "template mine (mine.prototxt.j2, line 2): 'title' is undefined" in err
    assert "mine          Mine.\n" in run("--list", *folder)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perceptron"], "there is no template 'perceptron'\n"),
        (["cafenet"], "there is no template 'cafenet'\nDid you mean caffenet?\n"),
        ([], "render needs a TEMPLATE\n"),
        (["solver", "-D", "itersize=4"], "no variable 'itersize'\nDid you mean iter_size"),
        (["solver", "-D", "iter_size"], "-D 'iter_size' is not of the form NAME=VALUE\n"),
        (["solver", "-D", "=4"], "-D '=4' is not of the form NAME=VALUE\n"),
        (["solver", "-D", "power=1", "-D", "power=2"], "-D sets power twice\n"),
        (["solver", "-D", "iter_size=4x"], "template solver: iter_size takes int, not '4x'\n"),
        (["solver", "--json"], "--json needs --list or --variables"),
        (["solver", "--templates", "/no/such"], "/no/such: there is no such folder\n"),
        (["/no/such.j2"], "/no/such.j2: there is no such template file\n"),
    ],
)
def test_wrong_use_is_one_message(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("caffe-batch: ")
    assert message in err
    assert len(err.splitlines()) <= 2


def test_the_list(run: Run) -> None:
    code, out, _ = run("--list")
    assert code == 0
    for name in ("caffenet", "lenet_digits", "resnet", "resnet50", "solver"):
        assert f"\n{name} " in f"\n{out}"
    assert "\n_" not in out


def test_the_list_as_json(run: Run) -> None:
    listed = json.loads(run("--list", "--json")[1])
    assert [set(entry) for entry in listed] == [{"name", "path", "summary"}] * len(listed)
    assert all(Path(entry["path"]).is_file() for entry in listed)


def test_the_variables(run: Run) -> None:
    code, out, _ = run("lenet_digits", "--variables")
    assert code == 0
    assert out.startswith("lenet_digits: LeNet-style net")
    assert "batch_size = 256" in out
    assert "[lmdb | leveldb |" in out
    assert "\nlr_policy" not in out


def test_the_variables_as_json(run: Run) -> None:
    variables = {
        entry["name"]: entry for entry in json.loads(run("--variables", "solver", "--json")[1])
    }
    assert variables["stepvalue"] == {
        "name": "stepvalue",
        "type": "list of int",
        "choices": [],
        "default": None,
        "description": "updates at which the rate drops (multistep)",
    }
    assert variables["type"]["choices"][:2] == ["SGD", "Nesterov"]
