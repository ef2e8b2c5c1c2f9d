"""What is valid syntax, as decided by Caffe's own parser, and where an error is reported."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import pytest

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt.messages import fill
from caffe_batch.prototxt.syntax import MAX_DEPTH, Source, parse
from caffe_batch.schema.caffe_pb2 import NetParameter

Judge = Callable[..., list[tuple[bytes | None, str]]]

ACCEPTED = [
    "",
    "# only a comment",
    'name: "x"',
    "name: 'x'",
    'name:"x"',
    'name\n:\n"x"\n',
    'name # a comment\n: # another "\n "x"# the last',
    'name: "one" \'two\'\n"three" # four\n "five"',
    r'name: "\n\t\r\a\b\f\v\\\'\"\?"',
    r'name: "\x4a\x4A\101\1018\0"',
    r'name: "é \xc3\xa9 \303\251 \u00e9 \U000000e9"',
    r'name: "\xc3" "\xa9"',
    r'name: "\u20ac \U0001F600 \ud83d\ude00"',
    r'name: "\400"',
    'name: "a#b" # c',
    'name: "tab\tand\x01control"',
    'name: "x";',
    'name: "x",',
    'name: "x" ; force_backward: true , debug_info: false',
    'input:"a"input:"b"',
    "input_dim: 1 input_dim: 2\tinput_dim: 3\x0binput_dim: 4\x0cinput_dim: 5\r\ninput_dim: 6",
    "input_dim: 0x7fffffff input_dim: 0XfF input_dim: 017 input_dim: 0 input_dim: 00",
    "input_dim: -2147483648 input_dim: 2147483647 input_dim: - 5 input_dim: -\n# five\n5",
    "input_dim: [1, 2,3] input_dim: [] input_dim: [4]",
    "input_shape { dim: 9223372036854775807 dim: -9223372036854775808 }",
    'layer { name: "x" } layer < name: "y" > layer: { } layer: <>',
    'layer{name:"x"}layer{name:"y"}',
    "layer [{}, <>, { }] layer: [] layer []",
    'layer { top: ["a" "b", "c"] }',
    "layer { loss_weight: 1 loss_weight: 1. loss_weight: .5 loss_weight: 1.5e-3 }",
    "layer { loss_weight: 1f loss_weight: 1.5F loss_weight: 2e+3f loss_weight: 0f }",
    "layer { loss_weight: inf loss_weight: -INF loss_weight: Infinity loss_weight: - inf }",
    "layer { loss_weight: 1e39 loss_weight: -1e999 loss_weight: 1e-60 }",
    "layer { loss_weight: 99999999999999999999999999 loss_weight: -0 }",
    "layer { propagate_down: [true, True, t, 1, 01, 0x1, false, False, f, 0] }",
    "layer { phase: TEST } layer { phase: 1 } layer { phase: -0 } layer { phase: 0x1 }",
    "layer { clip_param { max: 2 min: 1 } }",
]

REFUSED = [
    ('name: "x', "1:7", "a string that is not closed on its line"),
    ('name: "x\n"', "1:7", "a string that is not closed on its line"),
    ("name: \"x'", "1:7", "a string that is not closed on its line"),
    ('name: "a\\\nb"', "1:7", "a string that is not closed on its line"),
    (r'name: "a\q"', "1:9", r"unknown escape '\\q' in a string"),
    (r'name: "\x"', "1:8", "unknown escape"),
    (r'name: "\X41"', "1:8", "unknown escape"),
    (r'name: "\u12"', "1:8", "unknown escape"),
    (r'name: "\U00200000"', "1:8", "unknown escape"),
    ('name "x"', "1:6", "expected ':' after name, found '\"x\"'"),
    ('name: "x" }', "1:11", "expected a field name or the end of the file, found '}'"),
    ('name: "x";;', "1:11", "expected a field name or the end of the file, found ';'"),
    ("name:", "1:6", "expected a value of name, found the end of the file"),
    ("}", "1:1", "expected a field name or the end of the file, found '}'"),
    ('"name": "x"', "1:1", "expected a field name"),
    ('[some.extension]: "x"', "1:1", "expected a field name"),
    ("layer {", "1:8", r"expected a field name or the '}' of layer (line 1), found the end"),
    ('\n\nlayer {\n\tname: "x"\n>', "5:1", r"the '}' of layer (line 3), found '>'"),
    ('layer: name: "x"', "1:12", "expected a field name or the end of the file, found ':'"),
    ("layer { loss_weight [1] }", "1:21", r"expected ':' after loss_weight, found '['"),
    ("input_dim: [1,]", "1:15", "expected a value of input_dim, found ']'"),
    ("input_dim: [1 2]", "1:15", "expected ',' or ']' in the list of input_dim, found '2'"),
    ("input_dim: [1", "1:14", "expected ',' or ']' in the list of input_dim, found the end"),
    ("input_dim: [[1]]", "1:13", r"expected a value of input_dim, found '['"),
    ("input_dim: 1input_dim: 2", "1:12", "the malformed number 1input_dim"),
    ("input_dim: 1.5.2", "1:12", "the malformed number 1.5.2"),
    ("input_dim: 1e", "1:12", "the malformed number 1e"),
    ("input_dim: 0x", "1:12", "the malformed number 0x"),
    ("input_dim: +1", "1:12", r"expected a value of input_dim, found '+'"),
    ("input_dim: - name", "1:14", "expected a number after '-', found 'name'"),
    ("input_dim: -TEST", "1:13", "expected a number after '-', found 'TEST'"),
    ('name: "x" \x01', "1:11", "found '\\x01'"),
    ('name: "x\0"', "1:7", "a string that is not closed on its line"),
    ('# a\0b\nname: "x"', "1:4", "found '\\x00'"),
]


def serialized(text: str, path: str | None = None) -> bytes:
    net, source = NetParameter(), Source(text, path)
    fill(net, parse(source), source)
    return net.SerializeToString(deterministic=True)


def test_what_caffe_accepts_means_the_same_here(judge: Judge) -> None:
    theirs = [
        data
        if data is None
        else NetParameter.FromString(data).SerializeToString(deterministic=True)
        for data, _ in judge("NetParameter", ACCEPTED)
    ]
    assert dict(zip(ACCEPTED, map(serialized, ACCEPTED), strict=True)) == dict(
        zip(ACCEPTED, theirs, strict=True)
    )


def test_caffe_refuses_what_is_refused_here(judge: Judge) -> None:
    answers = judge("NetParameter", [text for text, _, _ in REFUSED])
    assert [data for data, _ in answers] == [None] * len(REFUSED)


@pytest.mark.parametrize(("text", "place", "message"), REFUSED)
def test_a_mistake_is_named_with_its_place(text: str, place: str, message: str) -> None:
    expected = f"^{re.escape(f'net.prototxt:{place}: ')}.*{re.escape(message)}"
    with pytest.raises(PrototxtError, match=expected):
        serialized(text, "net.prototxt")


def test_an_error_carries_its_place() -> None:
    with pytest.raises(PrototxtError, match="found '}'") as caught:
        parse(Source('name: "x"\n  }', "net.prototxt"))
    assert (caught.value.path, caught.value.line, caught.value.column) == ("net.prototxt", 2, 3)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("layer = { }", "Write name: value."),
        ("// a comment", "A comment starts with #."),
        ("/* a comment */", "A comment starts with #."),
        ("name: “x”", "Only strings and comments may contain non-ASCII characters."),
        ("name:\xa0'x'", "Only strings and comments may contain non-ASCII characters."),
        ("[a.b]: 1", "Caffe's messages have no extensions."),
        (r"name: 'C:\data'", r"Write a backslash as \\."),
    ],
)
def test_common_mistakes_get_a_hint(text: str, hint: str) -> None:
    with pytest.raises(PrototxtError, match=r"found|escape") as caught:
        parse(Source(text))
    assert caught.value.hint == hint


def test_a_byte_order_mark_is_skipped_and_takes_no_column() -> None:
    assert serialized('\ufeffname: "x"') == serialized('name: "x"')
    with pytest.raises(PrototxtError, match=r"^1:5: expected ':'"):
        parse(Source("\ufeffname"))


def test_messages_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    parse(Source("a {" * MAX_DEPTH + "}" * MAX_DEPTH))
    with pytest.raises(PrototxtError, match=f"^1:303: more than {MAX_DEPTH} nested messages"):
        parse(Source("a {" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1)))


N = 100_000
HOSTILE = {
    "digits": "a: " + "1" * N,
    "malformed digits": "a: " + "1" * N + "x",
    "dots": "a: " + "1." * N,
    "exponent": "a: 1e" + "1" * N + "x",
    "hashes": "#" * N,
    "comment lines": "#\n" * N,
    "spaces": " " * N + "!",
    "open string": "a: '" + "\\'" * N,
    "escapes": "a: '" + r"\x41" * N + "'",
    "pieces": "a: " + "'b' " * N,
    "open messages": "a{" * N,
    "open list": "a: [" + "'b'," * N,
    "empty messages": "a{}" * N,
    "minus signs": "a: " + "-" * N,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(PrototxtError):
        parse(Source(text))
    assert time.process_time() - started < 5  # quadratic time would be minutes


def test_a_message_shows_only_the_beginning_of_what_is_wrong() -> None:
    with pytest.raises(PrototxtError, match=r"the malformed number 1{57}\.\.\.$"):
        parse(Source(HOSTILE["malformed digits"]))
