"""Properties of random messages and random text."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import Document, Path
from caffe_batch.prototxt.messages import fill
from caffe_batch.prototxt.syntax import Source, parse
from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.caffe_pb2 import NetParameter, SolverParameter
from tests.prototxt.message_strategies import collect, messages, scalars

Judge = Callable[..., list[tuple[bytes | None, str]]]

NETS = messages(NetParameter)
SOLVERS = messages(SolverParameter)

# A slow machine is no failure.

NEWLINES = st.sampled_from(["\n", " ", "\r\n", " # comment\r\n"])

# Pieces of text that a mutation may put anywhere.
TOKENS = [
    *"{}<>[]:,;-#\"'\\\n .+=/",
    *(" 0", " 5", " -1", " 08", " 0x1F", " 1.5", " 1e9", " 1e400", " .5f", " 99999999999"),
    *(" true", " nan", " inf", " TEST", " name", " layer", " name: 'x'", " layer {", " dim: ["),
    *(' "a"', " 'b' 'c'", "# comment\n", "\\x41", "\\u20", "\r\n", "\t", "é", "\0", "\x7f"),
]


def serialized(kind: type[Message], text: str) -> bytes:
    message, source = kind(), Source(text)
    fill(message, parse(source), source)
    return message.SerializeToString(deterministic=True)


@given(NETS | SOLVERS)
def test_writing_and_reading_gives_the_same_message(message: Message) -> None:
    expected = message.SerializeToString(deterministic=True)
    text = prototxt.write(message)
    assert serialized(type(message), text) == expected
    assert serialized(type(message), text.replace("\n", "\r\n")) == expected
    assert serialized(type(message), text.replace("\n", " ")) == expected
    assert prototxt.write(message) == text


def paths(message: Message, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every single value in a message: its path and the descriptor of its field."""
    for field, value in message.ListFields():
        rule = field_rules(message.DESCRIPTOR)[field.name]
        entries = list(value) if rule.repeated else [value]
        for index, entry in enumerate(entries):
            path: Path = (*above, field.name, *([index] if rule.repeated else []))
            if rule.message is None:
                yield path, field
            else:
                yield from paths(entry, path)


def put(message: Any, path: Path, value: Any) -> None:
    """Sets the value at a path of a message."""
    for step in path[:-2] if isinstance(path[-1], int) else path[:-1]:
        message = message[step] if isinstance(step, int) else getattr(message, step)
    if isinstance(path[-1], int):
        getattr(message, str(path[-2]))[path[-1]] = value
    else:
        setattr(message, path[-1], value)


@given(NETS | SOLVERS, st.data(), NEWLINES)
def test_an_edit_of_the_text_is_the_edit_of_the_message(
    message: Message, data: st.DataObject, newline: str
) -> None:
    places = list(paths(message))
    if not places:
        return
    text = prototxt.write(message).replace("\n", newline)
    document = Document(text, type(message))
    path, field = data.draw(st.sampled_from(places))
    value = data.draw(scalars(field))
    document.set(path, value)
    put(message, path, value)
    assert serialized(type(message), document.text) == message.SerializeToString(deterministic=True)


@given(NETS, NETS, NEWLINES)
def test_fields_set_in_the_text_are_those_of_the_message(
    message: NetParameter, other: NetParameter, newline: str
) -> None:
    """What another message holds is set value by value, most of it where nothing stood."""
    document = Document(prototxt.write(message).replace("\n", newline), NetParameter)
    source = Document(prototxt.write(other), NetParameter)
    expected = {path: document.get(path) for path, _ in paths(message)}
    for path, _ in paths(other):
        with contextlib.suppress(PrototxtError):  # an entry that is not the next one
            document.set(path, source.get(path))
            expected[path] = source.get(path)
    assert {path: document.get(path) for path in expected} == expected
    found = NetParameter.FromString(serialized(NetParameter, document.text))
    assert {path for path, _ in paths(found)} == expected.keys()


def mutated(text: str, seed: int) -> str:
    """The text with a few pieces cut out, put in, doubled or moved."""
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.randint(0, 6))
        piece = chance.choice(["", chance.choice(TOKENS), text[start:end] * 2])
        text = text[:start] + piece + text[end:]
    return text


MUTATED = st.builds(mutated, st.builds(prototxt.write, NETS), st.integers(0, 2**32))


@settings(max_examples=300)
@given(MUTATED | st.text(st.sampled_from([*"ab1.e-:{}[]<>,;#'\"\\ \n", "é"])), st.booleans())
def test_any_text_is_a_message_or_an_error_of_ours(text: str, allow_unknown_fields: bool) -> None:
    source = Source(text, "net.prototxt")
    with contextlib.suppress(PrototxtError):
        net = NetParameter()
        fill(net, parse(source), source, allow_unknown_fields=allow_unknown_fields)
        with contextlib.suppress(PrototxtError):
            prototxt.upgrade_net(net)


@given(st.binary() | st.builds(NetParameter.SerializeToString, NETS), st.data())
def test_any_file_is_a_net_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(content)))
    path = tmp_path_factory.getbasetemp() / "random.prototxt"
    path.write_bytes(content[:cut] if data.draw(st.booleans()) else content)
    with contextlib.suppress(PrototxtError), warnings.catch_warnings():
        warnings.simplefilter("ignore", prototxt.PrototxtWarning)
        assert prototxt.read_net(path).layer


def test_caffe_reads_random_messages_as_they_were_written(judge: Judge) -> None:
    for strategy, kind in ((NETS, NetParameter), (SOLVERS, SolverParameter)):
        cases = collect(strategy, 60)
        answers = judge(kind.DESCRIPTOR.name, [prototxt.write(case) for case in cases])
        theirs = [data if data is None else kind.FromString(data) for data, _ in answers]
        assert theirs == cases


def test_caffe_agrees_on_mutated_texts(judge: Judge) -> None:
    texts = collect(MUTATED, 500)
    ours: dict[str, bytes | None] = {}
    for text in texts:
        try:
            ours[text] = serialized(NetParameter, text)
        except PrototxtError as error:
            if "not UTF-8" not in str(error):
                ours[text] = None
    answers = judge("NetParameter", list(ours))
    theirs = {
        text: data
        if data is None
        else NetParameter.FromString(data).SerializeToString(deterministic=True)
        for text, (data, _) in zip(ours, answers, strict=True)
    }
    assert ours == theirs
    refused = sum(data is None for data in ours.values())
    assert 10 < refused < len(ours) - 10  # some of both; how many is chance
