"""The installed runtimes on disk: what counts as a runtime, and what is refused."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.errors import InputError, RuntimeMissingError
from caffe_batch.runtimes import store

RECORD = store.Record(
    machine=platform.machine(),
    mirror="file:/srv/debian",
    suite="bullseye",
    packages={"python3-caffe": "1.0"},
    caffe_version="1.0.0",
    python_version="3.9.2",
    gpu=False,
    size_bytes=4096,
)


def make(name: str, record: store.Record = RECORD) -> Path:
    folder = store.runtimes_directory() / name
    folder.mkdir(parents=True)
    store.write_record(folder, record)
    return folder


def test_data_directory_is_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFE_BATCH_HOME", "some/where")
    monkeypatch.chdir(tmp_path)
    assert runtimes.data_directory() == tmp_path / "some/where"


def test_data_directory_is_in_the_users_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAFFE_BATCH_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert runtimes.data_directory() == tmp_path / ".local/share/caffe-batch"


def test_nothing_is_installed(home: Path) -> None:
    assert runtimes.installed() == {}
    assert not home.exists()


def test_default_comes_first(home: Path) -> None:
    for name in ("a", "z", runtimes.DEFAULT_NAME):
        make(name)
    assert [*runtimes.installed()] == [runtimes.DEFAULT_NAME, "a", "z"]


def test_record_is_read_back(home: Path) -> None:
    folder = make("a")
    assert runtimes.installed()["a"] == store.Installed("a", folder, RECORD)


def test_folders_without_a_record_do_not_count(home: Path) -> None:
    make("a")
    (home / "runtimes/b").mkdir()
    make(".tmp-x")
    (home / "runtimes/file").touch()
    assert [*runtimes.installed()] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": 1'])
def test_damaged_record(text: str, home: Path) -> None:
    (make("a") / "runtime.json").write_text(text)
    with pytest.raises(RuntimeMissingError, match=r"(?s)damaged: .*runtime remove a"):
        runtimes.installed()
    runtimes.remove("a")
    assert runtimes.installed() == {}


def test_a_record_of_a_later_version_may_say_more(home: Path) -> None:
    file = make("a") / "runtime.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "signed_by": "a later version"}))
    assert runtimes.installed()["a"].record == RECORD


def test_runtime_for_another_processor(home: Path) -> None:
    make("a", replace(RECORD, machine="s390x"))
    with pytest.raises(RuntimeMissingError, match="'a' is for s390x, and this machine is"):
        runtimes.find("a")
    with pytest.raises(RuntimeMissingError, match="no Caffe was found"):
        runtimes.find()


def test_remove(home: Path) -> None:
    folder = make("a")
    make("b")
    runtimes.remove("a")
    assert [*runtimes.installed()] == ["b"]
    assert not folder.exists()
    assert sorted(path.name for path in (home / "runtimes").iterdir()) == [".lock", "b"]


def test_remove_what_is_not_there(home: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no installed runtime 'debian-11'.*None is"):
        runtimes.remove("debian-11")
    make("debian-11")
    with pytest.raises(InputError, match=r"Did you mean debian-11\?"):
        runtimes.remove("debian11")


def test_remove_takes_no_path(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be the name"):
        runtimes.remove("../..")
