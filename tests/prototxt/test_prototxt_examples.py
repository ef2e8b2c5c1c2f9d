"""Every net and solver that Debian ships with Caffe's documentation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from caffe_batch import prototxt
from caffe_batch.prototxt.messages import fill
from caffe_batch.prototxt.syntax import Source, parse
from caffe_batch.schema.caffe_pb2 import NetParameter, SolverParameter

Judge = Callable[..., list[tuple[bytes | None, str]]]

# Its nets are in old syntax inside the solver, where Caffe ignores it and this program doesn't.
CONSOLIDATED = "lenet_consolidated_solver.prototxt"


@pytest.fixture(params=[NetParameter, SolverParameter], ids=["nets", "solvers"])
def kind(request: pytest.FixtureRequest) -> type[Message]:
    found: type[Message] = request.param
    return found


@pytest.fixture
def texts(kind: type[Message], caffe_examples: dict[str, bytes]) -> dict[str, str]:
    """The examples of one kind, by path."""
    return {
        name: prototxt.decode(data, name)
        for name, data in caffe_examples.items()
        if ("solver" in name.rpartition("/")[2]) == (kind is SolverParameter)
    }


def message(kind: type[Message], text: str) -> Message:
    found, source = kind(), Source(text)
    fill(found, parse(source), source)
    return found


def test_there_are_nets_and_solvers(texts: dict[str, str]) -> None:
    assert len(texts) >= 20


def test_a_text_is_what_caffe_reads_in_it(
    kind: type[Message], texts: dict[str, str], judge: Judge
) -> None:
    answers = judge(kind.DESCRIPTOR.name, list(texts.values()))
    theirs = {
        name: data and kind.FromString(data) for name, (data, _) in zip(texts, answers, strict=True)
    }
    assert {name: message(kind, text) for name, text in texts.items()} == theirs


def test_old_syntax_becomes_what_caffe_makes_of_it(
    kind: type[Message], texts: dict[str, str], judge: Judge
) -> None:
    texts = {name: text for name, text in texts.items() if not name.endswith(CONSOLIDATED)}
    answers = judge(kind.DESCRIPTOR.name, list(texts.values()), upgrade=True)
    theirs = {
        name: data and kind.FromString(data) for name, (data, _) in zip(texts, answers, strict=True)
    }
    read = prototxt.parse_net if kind is NetParameter else prototxt.parse_solver
    assert {name: read(text, path=name) for name, text in texts.items()} == theirs


def test_the_nets_inside_the_consolidated_solver_are_read(caffe_examples: dict[str, bytes]) -> None:
    (text,) = (
        data.decode() for name, data in caffe_examples.items() if name.endswith(CONSOLIDATED)
    )
    with pytest.warns(prototxt.PrototxtWarning, match="old syntax, which Caffe ignores"):
        solver = prototxt.parse_solver(text)
    assert solver.net_param.layer[-1].type == "SoftmaxWithLoss"


def test_writing_and_reading_gives_the_same_message(
    kind: type[Message], texts: dict[str, str]
) -> None:
    found = {name: message(kind, text) for name, text in texts.items()}
    again = {name: message(kind, prototxt.write(one)) for name, one in found.items()}
    assert again == found


def test_a_document_gives_the_text_back(kind: type[Message], texts: dict[str, str]) -> None:
    assert {name: prototxt.Document(text, kind).text for name, text in texts.items()} == texts
