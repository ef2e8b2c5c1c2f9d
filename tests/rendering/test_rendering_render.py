"""Rendering: values, block tags, missing variables and their hints."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.rendering import render

SILENCE = "layer { name: 'end' type: 'Silence' }\n"


def render_text(folder: Path, source: str, **settings: object) -> str:
    path = folder / "net.prototxt.j2"
    path.write_text(source)
    return render(str(path), settings)


def test_values_are_written_as_prototxt_writes_them(tmp_path: Path) -> None:
    source = (
        "name: {{ name | quote }}\ndebug_info: {{ debug }}\ninput_dim: [{{ dims }}]\n{{ layer }}"
    )
    settings = {"name": 'a "b"\\ü\n', "debug": True, "dims": "1,3,227,227"}
    assert render_text(tmp_path, source, **settings, layer=SILENCE) == (
        'name: "a \\"b\\"\\\\ü\\n"\ndebug_info: true\ninput_dim: [1,3,227,227]\n' + SILENCE
    )


def test_block_tags_leave_no_trace(tmp_path: Path) -> None:
    loop = "{% for name in ['a', 'b'] %}\n  {% if name == 'b' %}\nname: 'b'\n"
    source = loop + "  {% endif %}\n{% endfor %}\n"
    assert render_text(tmp_path, source + SILENCE) == "name: 'b'\n" + SILENCE


def test_a_missing_variable_is_named_with_template_and_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"template net \(net\.prototxt\.j2, line 2\): 'title' is undefined\n"
        r'Give it with define={"title": VALUE}\.',
    ):
        render_text(tmp_path, "# x\nname: {{ title | quote }}\n")


def test_the_hint_says_what_a_missing_variable_means() -> None:
    with pytest.raises(
        InputError,
        match=r"'stepsize' is undefined\nGive it with "
        r'define={"stepsize": VALUE} \(updates',
    ):
        render("solver", {"lr_policy": "step", "gamma": "0.1"})


def test_a_variable_with_a_default_filter_may_be_missing(tmp_path: Path) -> None:
    source = "name: '{{ title | default('x') }}'\n" + SILENCE
    assert render_text(tmp_path, source) == "name: 'x'\n" + SILENCE


def test_the_users_folder_serves_parts_and_templates(tmp_path: Path) -> None:
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    mine.mkdir()
    elsewhere.mkdir()
    (mine / "_end.j2").write_text(SILENCE)
    (mine / "small.prototxt.j2").write_text("{% include '_end.j2' %}")
    (elsewhere / "net.j2").write_text(
        "{% import '_layers.prototxt.j2' as layers %}\n"
        "{% include '_end.j2' %}\n{{ layers.relu('r', 'data') }}"
    )
    assert render("small", {}, templates_dir=mine) == SILENCE
    text = render(str(elsewhere / "net.j2"), {}, templates_dir=mine)
    assert text.startswith(SILENCE + 'layer {\n  name: "r"')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("name: '{{ 1 // 0 }}'", "line 1.*integer division or modulo by zero"),
        ("\nname: '{{ {}['x'] }}'", "line 2.*has no attribute 'x'"),
        ("name: '{{ 'a' + 1 }}'", "line 1.*can only concatenate"),
        ("name: '{{ fail('width is odd') }}'", r"line 1\): width is odd"),
        ("name: '{{ ''.__class__.__mro__ }}'", "line 1.*unsafe"),
        ("{% include 'net.prototxt.j2' %}", "recursion"),
    ],
)
def test_an_error_in_a_template_names_the_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(InputError, match=f"template net .*{message}"):
        render_text(tmp_path, source)


def test_the_line_of_an_included_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "_part.j2").write_text("\n\n{{ missing }}")
    with pytest.raises(InputError, match=r"template net \(_part\.j2, line 3\): 'missing'"):
        render_text(tmp_path, "{% include '_part.j2' %}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("layer {\n  name: 'x'\n  tipe: 'ReLU'\n}", "tipe.*\"tipe: 'ReLU'\""),
        ("base_lr: 0.1\nmax_iter: many\n", 'many.*"?max_iter: many'),
        ("layer {", "layer"),
        ("name: 'empty'", "no layers"),
    ],
)
def test_a_text_that_caffe_cannot_read_is_refused(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(
        InputError, match=f"template net makes a text that Caffe can't read: .*{message}"
    ):
        render_text(tmp_path, source)
