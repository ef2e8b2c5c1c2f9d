"""How a template is found by name or path."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch import resources
from caffe_batch.errors import InputError
from caffe_batch.rendering import available, find, find_path

SHIPPED = resources.folder("templates")


@pytest.mark.parametrize("name", ["solver", "solver.prototxt", "solver.prototxt.j2", "solver.j2"])
def test_finds_a_template_by_name(name: str) -> None:
    assert find_path(name) == SHIPPED / "solver.prototxt.j2"


def test_the_users_folder_comes_first(tmp_path: Path) -> None:
    mine = tmp_path / "solver.j2"
    mine.write_text("{# Mine. #}\nbase_lr: 1\n")
    (tmp_path / "_part.j2").write_text("")
    (tmp_path / "notes.txt").write_text("no template")
    assert find_path("solver", tmp_path) == mine
    assert find_path("caffenet", tmp_path) == SHIPPED / "caffenet.prototxt.j2"
    listed = {template.name: template for template in available(tmp_path)}
    assert set(listed) == {template.name for template in available()}
    assert (listed["solver"].path, listed["solver"].summary) == (mine, "Mine.")


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caffenet.prototxt.j2").write_text("")
    (tmp_path / "net.tmpl").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_path("caffenet.prototxt.j2") == Path("caffenet.prototxt.j2")
    assert find_path("./net.tmpl") == Path("net.tmpl")
    assert find_path("caffenet") == SHIPPED / "caffenet.prototxt.j2"


def test_a_missing_path_is_named() -> None:
    with pytest.raises(InputError, match=r"nets/missing\.j2: there is no such template file"):
        find("nets/missing.j2")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no template 'cafenet'\nDid you mean caffenet\?"):
        find("cafenet")


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(
        InputError, match=r"The templates are alexnet, autoencoder, .*, wide_resnet"
    ):
        find("perceptron")


@pytest.mark.parametrize("part", ["_data", "_data.prototxt.j2"])
def test_parts_are_not_templates(part: str) -> None:
    with pytest.raises(InputError, match=f"no template '{part}'"):
        find(part)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: there is no such folder"):
        available(tmp_path / "absent")
