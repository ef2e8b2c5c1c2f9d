"""The header of a template: its summary and its variables."""

from __future__ import annotations

import pytest

from caffe_batch.errors import InputError
from caffe_batch.rendering.header import parse_header

SOURCE = """
{#-
A net for tests: small.

More about it.

variables:
  batch_size: int = 64   samples of one pass
  data: lmdb | dummy = lmdb
      where the samples
      come from
  mean_values: list of float = 104,117  subtracted
  mean_file: text = ""
  stepsize: int          updates between drops, e.g. 100 = often
-#}
name: "x"
"""


def test_reads_summary_and_variables() -> None:
    header = parse_header(SOURCE, "small")
    assert header.summary == "A net for tests: small."
    assert [(v.name, str(v.type), v.default, v.description) for v in header.variables] == [
        ("batch_size", "int", 64, "samples of one pass"),
        ("data", "lmdb | dummy", "lmdb", "where the samples come from"),
        ("mean_values", "list of float", (104, 117), "subtracted"),
        ("mean_file", "text", "", ""),
        ("stepsize", "int", None, "updates between drops, e.g. 100 = often"),
    ]


@pytest.mark.parametrize("source", ["", 'name: "x"', "layer {}{# variables: #}", "{{ x }}"])
def test_without_a_header_all_is_empty(source: str) -> None:
    header = parse_header(source, "bare")
    assert (header.summary, header.variables) == ("", ())


def test_a_header_may_have_no_variables() -> None:
    assert parse_header("{# Only a line. #}\n", "line").summary == "Only a line."


@pytest.mark.parametrize(
    "line",
    [
        "batch_size = 64",
        "  batch_size",
        "  batch_size: integer = 64",
        "  batch_size: int = many",
        "  data: lmdb | dummy = hdf5",
        "  2nd: int = 1",
        "      a description of nothing",
    ],
)
def test_names_the_line_that_is_not_a_variable(line: str) -> None:
    with pytest.raises(
        InputError,
        match=f"template bad: .* is not a variable: '{line.strip()}'".replace("|", r"\|"),
    ):
        parse_header(f"{{#-\nBad.\n\nvariables:\n{line}\n-#}}\n", "bad")
