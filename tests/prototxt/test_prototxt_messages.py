"""Fields of a message: what they accept, the error for a wrong one, how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt.messages import Skipped, fill, write
from caffe_batch.prototxt.syntax import Source, parse
from caffe_batch.prototxt.values import format_float
from caffe_batch.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter

Judge = Callable[..., list[tuple[bytes | None, str]]]

# text, place, message, hint
WRONG = [
    ('name: "x" name: "y"', "1:11", "name is given twice", "Keep one of them."),
    ("state {} state {}", "1:10", "state is given twice", "Keep one of them."),
    ("name: x", "1:7", "name takes a string, found 'x'", 'Write it in quotes: name: "x"'),
    ("name: 5", "1:7", "name takes a string, found '5'", 'Write it in quotes: name: "5"'),
    ("name { }", "1:6", "name takes a single value, found a message", None),
    ('name: ["x"]', "1:7", "name takes a single value, found a list", None),
    ("state: 5", "1:8", "state takes a message", "Write state { ... }."),
    ("state: [{}]", "1:8", "state takes a message", "Write state { ... }."),
    ('layer: ["x"]', "1:9", "layer takes a message", "Write layer { ... }."),
    ("input_dim { }", "1:11", "input_dim takes a single value, found a message", None),
    ("layer { loss_weight [1] }", "1:21", "expected ':' after loss_weight, found '['", None),
    ("layer { loss_weight [] }", "1:21", "expected ':' after loss_weight, found '['", None),
    ("input_dim: 1.5", "1:12", "input_dim takes an integer, found '1.5'", None),
    ("input_dim: 1f", "1:12", "input_dim takes an integer, found '1f'", None),
    ("input_dim: 08", "1:12", "input_dim takes an integer, found '08'", None),
    ("input_dim: five", "1:12", "input_dim takes an integer, found 'five'", None),
    (
        'input_dim: "5"',
        "1:12",
        'input_dim takes an integer, found the string "5"',
        "Write it without quotes.",
    ),
    (
        "input_dim: 2147483648",
        "1:12",
        "input_dim takes -2147483648 to 2147483647, found 2147483648",
        None,
    ),
    ("input_dim: -2147483649", "1:12", "found -2147483649", None),
    ("input_dim: 0xfffffffffffffffffffffffffffffff", "1:12", "found 0xfffffffff", None),
    ("input_shape { dim: 9223372036854775808 }", "1:20", "found 9223372036854775808", None),
    (
        "layer { data_param { batch_size: -1 } }",
        "1:34",
        "batch_size takes a non-negative integer, found '-1'",
        None,
    ),
    ("layer { data_param { batch_size: -0 } }", "1:34", "found '-0'", None),
    ("layer { data_param { batch_size: 4294967296 } }", "1:34", "takes 0 to 4294967295", None),
    ("layer { loss_weight: 0x10 }", "1:22", "loss_weight takes a decimal number", None),
    ("layer { loss_weight: 010 }", "1:22", "loss_weight takes a decimal number", None),
    ("layer { loss_weight: inff }", "1:22", "loss_weight takes a decimal number", None),
    (
        'layer { loss_weight: "1" }',
        "1:22",
        "loss_weight takes a decimal number",
        "Write it without quotes.",
    ),
    ("force_backward: TRUE", "1:17", "force_backward takes true or false, found 'TRUE'", None),
    ("force_backward: 2", "1:17", "force_backward takes true or false, found '2'", None),
    ("force_backward: -1", "1:17", "force_backward takes true or false, found '-1'", None),
    ("force_backward: 1.0", "1:17", "force_backward takes true or false, found '1.0'", None),
    (
        "layer { phase: TRIAN }",
        "1:16",
        "phase takes one of TRAIN, TEST, found 'TRIAN'",
        "Did you mean TRAIN?",
    ),
    ("layer { phase: test }", "1:16", "found 'test'", "Did you mean TEST?"),
    ('layer { phase: "TEST" }', "1:16", 'found the string "TEST"', "Did you mean TEST?"),
    ("layer { phase: 2 }", "1:16", "phase takes one of TRAIN, TEST, found '2'", None),
    ("layer {\n  clip_param { min: 1 } }", "2:14", "ClipParameter needs max", None),
]

UNKNOWN = [
    ("layer { convoluton_param { } }", "LayerParameter", "Did you mean convolution_param?"),
    ("layer { num_ouput: 5 }", "LayerParameter", "It may be a field of a fork of Caffe."),
    ("layer { pool: MAX }", "LayerParameter", "It belongs inside pooling_param or spp_param."),
    ("layer { blobs_lr: 1 }", "LayerParameter", "It belongs to the old syntax: layers { ... }."),
    ("layer { layer { } }", "LayerParameter", "a field of NetParameter: is a '}' missing above?"),
    (
        'layer { lrn_param { top: "x" } }',
        "LRNParameter",
        "a field of LayerParameter: is a '}' missing above?",
    ),
    ("base_lr: 1", "NetParameter", "a field of SolverParameter: is this the right file?"),
    ("bottom: 'x'", "NetParameter", "It belongs inside layer or layers."),
]


def net(text: str, *, allow_unknown_fields: bool = False) -> tuple[NetParameter, list[Skipped]]:
    found, source = NetParameter(), Source(text, "net.prototxt")
    tree = parse(source)
    return found, fill(found, tree, source, allow_unknown_fields=allow_unknown_fields)


@pytest.mark.parametrize(("text", "place", "message", "hint"), WRONG)
def test_a_wrong_value_is_named_with_its_place(
    text: str, place: str, message: str, hint: str | None
) -> None:
    expected = f"^{re.escape(f'net.prototxt:{place}: ')}.*{re.escape(message)}"
    with pytest.raises(PrototxtError, match=expected) as caught:
        net(text)
    assert caught.value.hint == hint


def test_caffe_refuses_the_same(judge: Judge) -> None:
    texts = [text for text, *_ in WRONG] + [text for text, *_ in UNKNOWN]
    assert [data for data, _ in judge("NetParameter", texts)] == [None] * len(texts)


@pytest.mark.parametrize(("text", "owner", "hint"), UNKNOWN)
def test_an_unknown_field_is_named_with_where_it_may_belong(
    text: str, owner: str, hint: str
) -> None:
    with pytest.raises(PrototxtError, match=f"{owner} has no field") as caught:
        net(text)
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert "allow_unknown_fields=True" in caught.value.hint


def test_a_net_read_as_a_solver_is_recognized() -> None:
    source = Source('layer { name: "x" }')
    with pytest.raises(PrototxtError, match="SolverParameter has no field 'layer'") as caught:
        fill(SolverParameter(), parse(source), source)
    assert str(caught.value.hint).startswith(
        "It is a field of NetParameter: is this the right file?"
    )


def test_unknown_fields_of_any_shape_are_skipped_when_allowed() -> None:
    text = """
        name: "x" fork_a: 5 fork_b { a: 1 b: [1, 2] c <d: "e"> }
        fork_c [{}, {}] fork_d: [] fork_e: -inf;
        layer { name: "y" fork_a: MAX }
    """
    found, skipped = net(text, allow_unknown_fields=True)
    assert found == NetParameter(name="x", layer=[LayerParameter(name="y")])
    assert [(field.owner, field.name) for field in skipped] == [
        *(("NetParameter", f"fork_{letter}") for letter in "abcde"),
        ("LayerParameter", "fork_a"),
    ]
    assert [text[field.offset :][:6] for field in skipped] == [field.name for field in skipped]


def test_wrong_values_of_known_fields_are_refused_even_so() -> None:
    with pytest.raises(PrototxtError, match="name takes a string"):
        net("name: 5 fork: 1", allow_unknown_fields=True)


def test_a_string_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(PrototxtError, match=r"^net.prototxt:2:7: name contains bytes") as caught:
        net('# gr\udcfc\xdf\nname: "gr\udcfc\xdf"')
    assert caught.value.hint == "Save the file as UTF-8."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.009999999776482582, "0.01"),
        (0.9990000128746033, "0.999"),
        (1e-8, "1e-08"),
        (1000000.0, "1000000"),
        (16777217.0, "16777216"),
        (0.1234567890123, "0.12345679"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (1e-45, "1e-45"),
        (1e39, "inf"),
        (-1e39, "-inf"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_single_floats_are_as_short_as_can_be(value: float, text: str) -> None:
    assert format_float(value, single=True) == text


def test_double_floats_keep_all_their_digits() -> None:
    assert format_float(0.009999999776482582, single=False) == "0.009999999776482582"
    assert format_float(3.0, single=False) == "3"


def test_a_message_is_written_as_caffe_writes_it() -> None:
    text = """\
name: "a \\"quoted\\" \\\\ name\\n\\001\\177 é"
layer {
  name: "conv"
  type: "Convolution"
  loss_weight: 1
  loss_weight: 0.5
  param {
    lr_mult: 0.1
  }
  phase: TEST
  convolution_param {
    num_output: 20
    bias_term: false
    weight_filler {
      type: "gaussian"
      std: 0.01
    }
  }
}
"""
    assert write(net(text)[0]) == text


def test_an_empty_message_is_an_empty_text() -> None:
    assert write(NetParameter()) == ""
