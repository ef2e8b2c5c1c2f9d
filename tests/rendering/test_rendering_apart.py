"""Templates of other people: what they do is bounded; those of the package are read at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import prototxt, rendering
from caffe_batch.errors import InputError
from caffe_batch.rendering import apart

LAYER = 'layer { name: "a" type: "ReLU" bottom: "a" top: "a" }'

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> str:
        (tmp_path / "t.prototxt.j2").write_text(text)
        return str(tmp_path / "t.prototxt.j2")

    return written


def test_a_loop_without_an_end(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "CPU_S", 1)
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(InputError, match="template t takes more than 1 seconds"):
        rendering.render(write(loop), {})


@pytest.mark.parametrize(
    "text",
    [
        '{{ "x" * 10**10 }}',
        '{% set n = namespace(x="a") %}{% for i in range(99) %}'
        "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ 'x' | center(10**10) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ [1] | batch(10**9, 'x') | list }}",
    ],
)
def test_a_text_that_grows(write: Write, text: str) -> None:
    with pytest.raises(InputError, match="template t takes more than 1 GiB of memory"):
        rendering.render(write(text), {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{% for i in range(99999) %}{{ "x" * 10**6 }}{% endfor %}', "makes more than 16777216"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"),
        ('{% include "t.prototxt.j2" %}', "nested too deeply"),
        ("{% for i in [1] %}" * 60 + "{% endfor %}" * 60, "too many statically nested blocks"),
        ("{% for a in range(10**12) %}{% endfor %}", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ open('/etc/passwd') }}", "'open' is undefined"),
        ('{% include "/etc/passwd" %}', "there is no such file"),
        ('{% include "../t.prototxt.j2" %}', "there is no such file"),
    ],
)
def test_what_else_a_template_may_not_do(write: Write, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rendering.render(write(text), {})


def test_a_template_that_behaves(write: Write) -> None:
    """With its variables, in a folder of its own, and with parts of the package's."""
    path = write(
        "{#-\nMine.\n\nvariables:\n  width: int = 3  how wide\n-#}\n"
        "name: {{ width | quote }} {{ LAYER }}"
    )
    assert rendering.find(path).summary == "Mine."
    assert rendering.render(path, {"width": "7", "LAYER": LAYER}) == f'name: "7" {LAYER}'
    folder = Path(path).parent
    assert "t" in [template.name for template in rendering.available(folder)]
    with pytest.raises(InputError, match="width takes int, not 'x'") as caught:
        rendering.render("t", {"width": "x", "LAYER": ""}, templates_dir=folder)
    assert type(caught.value) is InputError
    with pytest.raises(InputError, match="'LAYER' is undefined") as caught:
        rendering.render(path, {})
    assert caught.value.hint == 'Give it with define={"LAYER": VALUE}.'


def test_values_that_are_no_plain_ones(write: Write) -> None:
    with pytest.raises(InputError, match="takes numbers, text, true, false and lists"):
        rendering.render(write(LAYER), {"x": lambda: None})


def test_modules_beside_the_user_are_not_its_own(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(LAYER)
    for name in ("pickle", "resource", "jinja2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":")
    assert rendering.render(path, {}) == LAYER


def test_the_packages_own_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess, "run", refuse)
    assert "layer" in rendering.render("lenet_digits", {})
    assert rendering.find("resnet50").variables
    assert rendering.available()


def test_controls_become_escapes_of_prototxt(write: Write) -> None:
    text = rendering.render(write(f'name: "\x1b[31m\u202e名" # \x1b[0m\n{LAYER}'), {})
    assert text == f'name: "\\033[31m\\342\\200\\256名" # \\033[0m\n{LAYER}'
    assert prototxt.parse_net(text).name == "\x1b[31m\u202e名"
