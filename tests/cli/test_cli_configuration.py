"""caffe-batch.toml: the choices of a user for all commands, and what wins over what."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.cli.configuration import NAME, VARIABLE, VARIABLES, configured, paths
from caffe_batch.errors import InputError
from tests.command import PROGRAM, Result, call, spawn

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 64 dim: 8 } shape { dim: 64 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def restored() -> Iterator[None]:
    """The environment as it was; a call in this process takes over what the file says."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def file(tmp_path: Path, restored: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the program reads; not there yet."""
    path = tmp_path / NAME
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def plan(*options: str, net: Path) -> Result:
    net.write_text(NET)
    return call("plan", net, "--gpu-memory", "1GiB", "--json", *options)


def test_the_users_file_lies_with_his_settings_and_the_machines_with_its() -> None:
    user, site = paths({})
    assert user.name == site.name == NAME
    assert user.parent.name == site.parent.name == "caffe-batch"
    assert paths({VARIABLE: "/a/b.toml"}) == [Path("/a/b.toml")]
    assert paths({VARIABLE: ""}) == []


def test_a_child_finds_the_users_and_the_machines_file(tmp_path: Path) -> None:
    """The user's wins key by key; both are where the desktop's standard puts them."""
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    for folder, text in {
        "home": 'reserve = "100MiB"\n',
        "site": 'reserve = "200MiB"\nengine = "pytorch"\n',
    }.items():
        (tmp_path / folder / "caffe-batch").mkdir(parents=True)
        (tmp_path / folder / "caffe-batch" / NAME).write_text(text)
    places: dict[str, Any] = {
        "XDG_CONFIG_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "site"),
    }
    command = ("env", "-u", VARIABLE, PROGRAM, "plan", net, "--gpu-memory", "1GiB", "--json")
    done = spawn(*command, **places)
    assert done.code == 0, done.err
    planned = json.loads(done.out)
    assert planned["reserve_bytes"] == 100 << 20
    assert planned["engine"] == "pytorch"


def test_an_option_wins_over_the_variable_and_that_over_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tmp_path / "net.prototxt"
    file.write_text('reserve = "100MiB"\n')
    assert json.loads(plan(net=net).out)["reserve_bytes"] == 100 << 20
    monkeypatch.setenv("CAFFE_BATCH_RESERVE", "200MiB")
    assert json.loads(plan(net=net).out)["reserve_bytes"] == 200 << 20
    assert json.loads(plan("--reserve", "300MiB", net=net).out)["reserve_bytes"] == 300 << 20


def test_the_runtime_is_that_of_the_variable(file: Path) -> None:
    file.write_text('runtime = "/no/such/python3"\n')
    done = call("runtime", "check")
    assert done.code == 5
    assert "/no/such/python3" in done.err


def test_a_choice_is_no_option_that_a_planned_job_refuses(file: Path, tmp_path: Path) -> None:
    """A job that is there keeps its budget and its engine."""
    net, job = tmp_path / "net.prototxt", tmp_path / "job"
    file.write_text("")
    assert plan("--out", str(job), net=net).code == 0
    file.write_text('engine = "pytorch"\nreserve = "100MiB"\n')
    done = call("train", job, "--cpu", "--batch-size", "4")
    assert done.code == 2
    assert done.err.startswith(f"caffe-batch: --batch-size: {job} is planned already")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("engine = 'caffee'", "there is no engine 'caffee'"),
        ("engin = 'caffe'", "there is no key 'engin'"),
        ("reserve = 512", "reserve must be a string in quotes"),
        ("reserve = 'much'", "reserve: "),
        ("mirror = ''", "mirror must be a string in quotes"),
        ("mirror = ", "is not TOML"),
        ("mirror = " + "[" * 100_000, "is not TOML"),
        ("[plan]\nreserve = '1GiB'", "there is no key 'plan'"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    file: Path, tmp_path: Path, text: str, named: str
) -> None:
    """With its path, before anything is done."""
    file.write_text(text)
    done = plan("--out", str(tmp_path / "job"), net=tmp_path / "net.prototxt")
    assert done.code == 2
    assert str(file) in done.err
    assert named in done.err
    assert not (tmp_path / "job").exists()


def test_a_pipe_is_no_file_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match=r"pipe\.toml"):
        configured({VARIABLE: str(tmp_path / "pipe.toml")})


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        configured({VARIABLE: str(tmp_path / "missing.toml")})


@pytest.mark.parametrize("key", VARIABLES)
def test_a_variable_that_is_set_wins(tmp_path: Path, key: str) -> None:
    value = {"engine": "pytorch", "reserve": "1GiB"}.get(key, "of the file")
    (tmp_path / NAME).write_text(f'{key} = "{value}"\n')
    environment: Mapping[str, str] = {VARIABLE: str(tmp_path / NAME)}
    assert configured(environment) == {VARIABLES[key]: value}
    assert configured({**environment, VARIABLES[key]: "set"}) == {}


def test_doctor_names_the_files(file: Path) -> None:
    from caffe_batch.cli.doctor import settings_lines

    assert settings_lines([file]) == [f"Settings:     {file} (not there)"]
    file.write_text("")
    assert settings_lines([file, file]) == [f"Settings:     {file}", f"              {file}"]
