"""A template's variables, also those of the templates that it includes."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.rendering import find

PART = """
{#-
A part.

variables:
  width: int = 8   how wide
  depth: int = 2   how deep
  height: int = 4  how high
-#}
{% for _ in range(depth) %}x{{ width }}{{ height }}{% endfor %}
"""
WHOLE = """
{#-
A whole.

variables:
  width: int = 16  wider
-#}
{% set depth = 3 %}
{% include "part.j2" %}
{{ name }}
"""


def names(path: Path) -> list[str]:
    return [variable.name for variable in find(str(path)).variables]


def write(folder: Path, **sources: str) -> Path:
    """The file of the last template."""
    path = folder
    for name, source in sources.items():
        path = folder / f"{name}.j2"
        path.write_text(source)
    return path


def test_variables_of_included_templates_count(tmp_path: Path) -> None:
    template = find(str(write(tmp_path, part=PART, whole=WHOLE)))
    assert (template.name, template.summary) == ("whole", "A whole.")
    assert [(v.name, v.default, v.description) for v in template.variables] == [
        ("width", 16, "wider"),
        ("height", 4, "how high"),
        ("name", None, ""),
    ]


def test_undocumented_variables_are_found(tmp_path: Path) -> None:
    source = "{% for i in range(n) %}{{ i ~ loop.index ~ [x, y]|join }}{% endfor %}"
    assert names(write(tmp_path, net=source)) == ["n", "x", "y"]


def test_a_variable_that_a_template_sets_from_itself_is_still_its_variable(tmp_path: Path) -> None:
    assert names(write(tmp_path, net="{% set n = n * 2 %}{{ n }}")) == ["n"]


def test_templates_may_refer_to_each_other(tmp_path: Path) -> None:
    one = "{% if a %}{% include 'two.j2' %}{% endif %}"
    two = "{% if b %}{% include 'one.j2' %}{% endif %}"
    assert names(write(tmp_path, one=one, two=two)) == ["a", "b"]


def test_settings_are_read_as_their_type(tmp_path: Path) -> None:
    template = find(str(write(tmp_path, part=PART)))
    assert template.read_settings({"depth": "5"}) == {"width": 8, "depth": 5, "height": 4}


def test_an_unknown_setting_gets_the_nearest(tmp_path: Path) -> None:
    template = find(str(write(tmp_path, part=PART)))
    with pytest.raises(InputError, match=r"part has no variable 'widht'\nDid you mean width\?"):
        template.read_settings({"widht": 1})
    with pytest.raises(InputError, match=r"variable 'zzz'\nIts variables are width, depth, height"):
        template.read_settings({"zzz": 1})
    with pytest.raises(InputError, match=r"variable 'x'\nIt takes none\."):
        find(str(write(tmp_path, plain="name: 'x'"))).read_settings({"x": 1})


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    source = "{#-\nX.\n\nvariables:\n  data: lmdb | dummy = lmdb  where\n-#}\n{{ data }}"
    template = find(str(write(tmp_path, net=source)))
    with pytest.raises(
        InputError, match=r"net: data takes lmdb \| dummy, not 'dumy'\nDid you mean"
    ):
        template.read_settings({"data": "dumy"})


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, net="name: 'x'\n{% for %}\n")
    with pytest.raises(InputError, match=r"template net\.j2, line 2: Expected"):
        find(str(path))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, net="{% include 'gone.j2' %}")
    with pytest.raises(InputError, match=r"template gone\.j2: there is no such file"):
        find(str(path))


def test_a_binary_file_is_not_a_template(tmp_path: Path) -> None:
    path = tmp_path / "net.j2"
    path.write_bytes(b"\x80\xff\x00")
    with pytest.raises(InputError, match=r"template net\.j2 is not UTF-8 text"):
        find(str(path))
