"""Editing in place: the characters that change, and all those that don't."""

from __future__ import annotations

from typing import Any

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import Document, Path, path_text
from caffe_batch.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter

NET = """\
# A net
name: "x"   # its name
layer {
  name: "data"  type: 'Data'
  data_param { source: "a" batch_size: 64 }  # one line
  include { phase: TRAIN }
}
layer {
\tname: "bn"
\ttype: "BatchNorm"  # no settings

\t# the end
}
layer { name: "r" type: "Reshape" reshape_param { shape { dim: [1, 2,3] } } }
"""


def edited(text: str, *changes: tuple[Path, Any], kind: Any = NetParameter) -> str:
    document = Document(text, kind)
    document.update(changes)
    return document.text


BATCH_SIZE: Path = ("layer", 0, "data_param", "batch_size")


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("name",), "y", 'name: "x"   #', 'name: "y"   #'),
        (("layer", 0, "type"), "Input", "type: 'Data'", 'type: "Input"'),
        (BATCH_SIZE, 16, "batch_size: 64 }", "batch_size: 16 }"),
        (("layer", 0, "include", 0, "phase"), "TEST", "phase: TRAIN", "phase: TEST"),
        (("layer", 0, "include", 0, "phase"), 1, "phase: TRAIN", "phase: TEST"),
        (("layer", 2, "reshape_param", "shape", "dim", 1), -1, "[1, 2,3]", "[1, -1,3]"),
    ],
)
def test_a_given_value_changes_and_nothing_else(path: Path, value: Any, old: str, new: str) -> None:
    assert NET.count(old) == 1
    assert edited(NET, (path, value)) == NET.replace(old, new)


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        # on a line of its own, behind the last field and its comment, indented alike
        (
            ("layer", 1, "loss_weight", 0),
            0.5,
            "# no settings\n",
            "# no settings\n\tloss_weight: 0.5\n",
        ),
        (
            ("layer", 0, "phase"),
            "TRAIN",
            "  include { phase: TRAIN }\n",
            "  include { phase: TRAIN }\n  phase: TRAIN\n",
        ),
        (("force_backward",), True, "[1, 2,3] } } }\n", "[1, 2,3] } } }\nforce_backward: true\n"),
        # on the same line, where the message is written on one
        (("layer", 0, "data_param", "prefetch"), 2, "64 }", "64 prefetch: 2 }"),
        (("layer", 2, "loss_weight", 0), 2, "] } } }", "] } } loss_weight: 2 }"),
        # at the end of a list
        (("layer", 2, "reshape_param", "shape", "dim", 3), 5, "[1, 2,3]", "[1, 2,3, 5]"),
        # with the messages around it
        (
            ("layer", 1, "batch_norm_param", "eps"),
            1e-5,
            "# no settings\n",
            "# no settings\n\tbatch_norm_param {\n\t  eps: 1e-05\n\t}\n",
        ),
        (
            ("layer", 2, "param", 0, "lr_mult"),
            0,
            "] } } }",
            "] } } param { lr_mult: 0 } }",
        ),
        (
            ("layer", 0, "dummy_data_param", "shape", 0, "dim", 0),
            3,
            "  include { phase: TRAIN }\n",
            "  include { phase: TRAIN }\n"
            "  dummy_data_param {\n    shape {\n      dim: 3\n    }\n  }\n",
        ),
        # behind the entry before it
        (
            ("layer", 0, "include", 1, "phase"),
            "TEST",
            "  include { phase: TRAIN }\n",
            "  include { phase: TRAIN }\n  include {\n    phase: TEST\n  }\n",
        ),
        (("layer", 3, "name"), "new", "} } }\n", '} } }\nlayer {\n  name: "new"\n}\n'),
    ],
)
def test_a_missing_field_is_inserted_like_its_neighbours(
    path: Path, value: Any, old: str, new: str
) -> None:
    assert NET.count(old) == 1
    assert edited(NET, (path, value)) == NET.replace(old, new)


TINY = [
    # text, path, value, text after
    ("", ("iter_size",), 4, "iter_size: 4\n"),
    ("\ufeff", ("iter_size",), 4, "\ufeffiter_size: 4\n"),
    ("# only this", ("iter_size",), 4, "# only this\niter_size: 4\n"),
    ("net: 'n'", ("iter_size",), 4, "net: 'n'\niter_size: 4"),
    ("net: 'n'\n", ("iter_size",), 4, "net: 'n'\niter_size: 4\n"),
    ("net: 'n'\n\n\n# end", ("iter_size",), 4, "net: 'n'\niter_size: 4\n\n\n# end"),
    ("\ufeffnet: 'n'\r\n", ("iter_size",), 4, "\ufeffnet: 'n'\r\niter_size: 4\r\n"),
    ("\ufeff  net: 'n'", ("iter_size",), 4, "\ufeff  net: 'n'\n  iter_size: 4"),
    ("net: 'n'; # c", ("iter_size",), 4, "net: 'n'; # c\niter_size: 4"),
    ("net: 'n', base_lr: 1,", ("iter_size",), 4, "net: 'n', base_lr: 1,\niter_size: 4"),
    ("test_iter: 5 net: 'n'", ("test_iter", 1), 6, "test_iter: 5 test_iter: 6 net: 'n'"),
    ("test_iter: 5\nnet: 'n'", ("test_iter", 1), 6, "test_iter: 5\ntest_iter: 6\nnet: 'n'"),
    ("test_iter: [5]", ("test_iter", 1), 6, "test_iter: [5, 6]"),
    ("stepvalue: 5\nstepvalue:6", ("stepvalue", 1), 12, "stepvalue: 5\nstepvalue:12"),
    ("base_lr: - # c\n 5", ("base_lr",), -0.01, "base_lr: -0.01"),
    ("net: 'a' # b\n\"c\" # d", ("net",), 'x "y"\n\\é', r'net: "x \"y\"\n\\é" # d'),
    ("net_param {}", ("net_param", "name"), "n", 'net_param { name: "n" }'),
    ("net_param { }", ("net_param", "name"), "n", 'net_param { name: "n" }'),
    ("net_param <>", ("net_param", "name"), "n", 'net_param < name: "n" >'),
    ("net_param {\n}", ("net_param", "name"), "n", 'net_param {\n  name: "n"\n}'),
    ("net_param { # c\n }", ("net_param", "name"), "n", 'net_param { # c\n  name: "n"\n }'),
    (
        "net_param { state {\n  } }",
        ("net_param", "name"),
        "n",
        'net_param { state {\n  }\n  name: "n" }',
    ),
    (
        "net_param {\n    debug_info: 1 }",
        ("net_param", "layer", 0, "name"),
        "n",
        'net_param {\n    debug_info: 1\n    layer {\n        name: "n"\n    } }',
    ),
    (
        "test_state: [{}]",
        ("test_state", 1, "level"),
        5,
        "test_state: [{}, { level: 5 }]",
    ),
    ("test_state: [{}]", ("test_state", 0, "level"), 5, "test_state: [{ level: 5 }]"),
    ("snapshot_format: 0", ("snapshot_format",), "BINARYPROTO", "snapshot_format: BINARYPROTO"),
]


@pytest.mark.parametrize(("text", "path", "value", "after"), TINY)
def test_layouts(text: str, path: Path, value: Any, after: str) -> None:
    assert edited(text, (path, value), kind=SolverParameter) == after
    assert Document(after, SolverParameter).has(path)


def test_changes_that_build_on_each_other() -> None:
    text = "layer {\n}\nlayer {\n}\n"
    group: Path = ("layer", 0, "convolution_param")
    changes = [
        ((*group, "kernel_size", 0), 3),
        ((*group, "kernel_size", 1), 5),
        ((*group, "weight_filler", "std"), 0.01),
        ((*group, "kernel_size", 0), 7),
        (("layer", 1, "name"), "b"),
        (("layer", 2, "name"), "c"),
    ]
    assert edited(text, *changes) == (
        "layer {\n  convolution_param {\n    kernel_size: 7\n    kernel_size: 5\n"
        "    weight_filler {\n      std: 0.01\n    }\n  }\n}\n"
        'layer {\n  name: "b"\n}\nlayer {\n  name: "c"\n}\n'
    )


def test_a_failed_update_leaves_the_text_as_it_was() -> None:
    document = Document(NET, NetParameter)
    changes: list[tuple[Path, Any]] = [
        (("layer", 0, "loss_weight", 0), 1),
        (("layer", 0, "loss_weight", 1), 1),
        (("layer", 0, "name"), 5),
    ]
    with pytest.raises(PrototxtError, match=r"layer\[0\]\.name: name takes a string, not 5"):
        document.update(changes)
    assert document.text == NET


def test_values_are_read_as_the_message_gives_them() -> None:
    document = Document(NET, NetParameter)
    assert document.get(("layer", 0, "type")) == "Data"
    assert document.get(BATCH_SIZE) == 64
    assert document.get(("layer", 0, "include", 0, "phase")) == 0
    assert document.get(("layer", 1, "batch_norm_param", "moving_average_fraction")) == (
        LayerParameter().batch_norm_param.moving_average_fraction
    )
    assert document.get(("force_backward",)) is False
    assert [document.count(("layer", which, "include")) for which in range(3)] == [1, 0, 0]
    assert document.count(("layer",)) == 3
    assert document.count(("layer", 2, "reshape_param", "shape", "dim")) == 3
    assert document.count(("layer", 1, "reshape_param", "shape", "dim")) == 0
    assert document.has(("layer",))
    assert document.has(("layer", 2))
    assert not document.has(("layer", 3))
    assert not document.has(("layer", 1, "batch_norm_param", "eps"))
    assert not document.has(("input",))
    assert document.position(BATCH_SIZE) == (5, 28)


@pytest.mark.parametrize(
    ("path", "after"),
    [
        (("name",), NET.replace('name: "x"   # its', "# its")),
        (BATCH_SIZE, NET.replace("batch_size: 64 ", "")),
        (("layer", 0, "data_param", "source"), NET.replace('source: "a" ', "")),
        (("layer", 0, "include", 0), NET.replace("  include { phase: TRAIN }\n", "")),
        (("layer", 0, "name"), NET.replace('name: "data"  type', "type")),
        (("layer", 2), NET[: NET.rindex("layer {")]),
        (("layer", 2, "reshape_param", "shape", "dim", 0), NET.replace("[1, 2,3]", "[2,3]")),
        (("layer", 2, "reshape_param", "shape", "dim", 1), NET.replace("[1, 2,3]", "[1,3]")),
        (("layer", 2, "reshape_param", "shape", "dim", 2), NET.replace("[1, 2,3]", "[1, 2]")),
    ],
)
def test_a_field_is_removed_with_its_line_if_it_stands_alone(path: Path, after: str) -> None:
    document = Document(NET, NetParameter)
    document.remove(path)
    assert document.text == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("\ufeffiter_size: 4\r\nnet: 'n'\r\n", "\ufeffnet: 'n'\r\n"),
        ("net: 'n'\n  iter_size: 4  ", "net: 'n'\n"),
        ("iter_size: 4", ""),
        ("iter_size: 4, net: 'n'", "net: 'n'"),
        ("iter_size: # c\n 4 # d\n", "# d\n"),
    ],
)
def test_removing_from_any_line(text: str, after: str) -> None:
    document = Document(text, SolverParameter)
    document.remove(("iter_size",))
    assert document.text == after


def test_the_last_item_of_a_list_takes_the_field_with_it() -> None:
    document = Document("test_iter: [5]\nnet: 'n'", SolverParameter)
    document.remove(("test_iter", 0))
    assert document.text == "net: 'n'"


@pytest.mark.parametrize(
    ("path", "value", "message", "hint"),
    [
        (("layer", 0, "nam"), "x", r"layer\[0\]\.nam: LayerParameter has no field 'nam'", "name"),
        (("layer", 0, "fork"), 1, "LayerParameter has no field 'fork'", None),
        (("layer", 4, "name"), "x", r"there is no layer\[4\].name: layer has 3 entries", None),
        (("layer", 0, "top", 1), "x", r"there is no layer\[0\]\.top\[1\]: top has 0 entries", None),
        (("layer", 0, "param", 1, "name"), "x", "param has 0 entries", None),
        (("layer", 0, "dummy_data_param", "num", 1), 1, "num has 0 entries", None),
        (("layer", "name"), "x", "layer is a list, and 'name' is not an index", None),
        (("layer", -1, "name"), "x", "layer is a list, and -1 is not an index", None),
        (("name", 0), "x", "name is a single value and has no fields", None),
        (("layer", 0, "name", "x"), "x", "name is a single value and has no fields", None),
        (
            ("layer", 0, "top"),
            "x",
            r"layer\[0\]\.top is a list",
            "Name an entry by index.",
        ),
        (("layer", 0), "x", "layer is a message, not a single value", "Name one of its fields."),
        (("state",), 1, "state is a message, not a single value", "Name one of its fields."),
        ((), 1, "NetParameter has no field ''", None),
        (("name",), 5, "name: name takes a string, not 5", None),
        (("name",), "\ud800", "contains bytes that are not UTF-8", "Save the file as UTF-8."),
        (BATCH_SIZE, -1, "batch_size takes 0 to 4294967295, not -1", None),
        (BATCH_SIZE, 2**32, "batch_size takes 0 to 4294967295", None),
        (BATCH_SIZE, 1.0, "takes a non-negative integer, not 1.0", None),
        (BATCH_SIZE, True, "takes a non-negative integer, not True", None),
        (("input_dim", 0), "5", "input_dim takes an integer, not '5'", None),
        (("layer", 0, "loss_weight", 0), "1", "loss_weight takes a number, not '1'", None),
        (("layer", 0, "loss_weight", 0), None, "loss_weight takes a number, not None", None),
        (("force_backward",), 1, "force_backward takes True or False, not 1", None),
        (("layer", 0, "phase"), "train", "phase takes one of TRAIN, TEST, not 'train'", None),
        (("layer", 0, "phase"), 2, "phase takes one of TRAIN, TEST, not 2", None),
        (("layer", 0, "phase"), [], r"phase takes one of TRAIN, TEST, not \[\]", None),
    ],
)
def test_a_path_or_value_that_cannot_be_is_an_error(
    path: Path, value: Any, message: str, hint: str | None
) -> None:
    document = Document(NET, NetParameter, "net.prototxt")
    with pytest.raises(PrototxtError, match=f"^net.prototxt: .*{message}") as caught:
        document.set(path, value)
    assert document.text == NET
    assert caught.value.hint == (f"Did you mean {hint}?" if hint == "name" else hint)


def test_what_is_not_there_cannot_be_read_or_removed() -> None:
    document = Document(NET, NetParameter)
    missing: list[Path] = [("layer", 3), ("layer", 0, "top", 0), ("layer", 3, "top", 0)]
    for path in missing:
        with pytest.raises(PrototxtError, match="there is no layer"):
            document.get(path)
        with pytest.raises(PrototxtError, match="there is no layer"):
            document.remove(path)
    with pytest.raises(PrototxtError, match="there is no force_backward"):
        document.remove(("force_backward",))
    with pytest.raises(PrototxtError, match=r"there is no state\.level"):
        document.position(("state", "level"))


def test_what_stands_there_may_be_of_another_type() -> None:
    document = Document('name { } state: 5 force_backward: "x"', NetParameter, "n")
    with pytest.raises(PrototxtError, match=r"^n:1:6: name is a message, not a single value"):
        document.get(("name",))
    with pytest.raises(PrototxtError, match=r"^n:1:17: state takes a message"):
        document.get(("state", "level"))
    with pytest.raises(PrototxtError, match=r"^n:1:35: force_backward takes true or false"):
        document.get(("force_backward",))


def test_fields_of_a_fork_stay() -> None:
    text = "fork { a: 1 }\nlayer { fork: 2 }"
    assert edited(text, (("layer", 0, "name"), "x")) == (
        'fork { a: 1 }\nlayer { fork: 2 name: "x" }'
    )


def test_text_that_is_not_utf8_stays_byte_for_byte() -> None:
    data = b"# Universit\xe4t\nname: 'x'\n"
    document = Document(prototxt.decode(data, "net.prototxt"), NetParameter)
    document.set(("name",), "ü")
    assert prototxt.encode(document.text) == b'# Universit\xe4t\nname: "\xc3\xbc"\n'


def test_a_text_with_a_mistake_cannot_be_edited() -> None:
    with pytest.raises(PrototxtError, match=r"^net\.prototxt:1:8: expected a field name"):
        Document("layer {", NetParameter, "net.prototxt")


def test_path_text() -> None:
    assert path_text(("layer", 0, "param", 1, "lr_mult")) == "layer[0].param[1].lr_mult"


def test_a_document_gives_its_message_in_its_own_syntax() -> None:
    text = "input: 'd' fork: 1 layers { type: RELU }"
    document = Document(text, NetParameter)
    message = NetParameter(input=["d"])
    message.layers.add(type="RELU")
    assert document.message() == message
    document.set(("input", 0), "e")
    assert list(document.message().input) == ["e"]
