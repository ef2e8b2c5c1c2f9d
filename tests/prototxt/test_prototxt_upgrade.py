"""Old syntax: becomes what Caffe's own upgrade makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st

from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import Origin, upgrade_v0
from caffe_batch.schema.caffe_pb2 import (
    LayerParameter,
    NetParameter,
    SolverParameter,
    V0LayerParameter,
    V1LayerParameter,
)
from tests.prototxt.message_strategies import FIRST_OF_FORKS, STRINGS, collect, messages

Judge = Callable[..., list[tuple[bytes | None, str]]]

INPUTS = frozenset({"input", "input_dim", "input_shape"})
BLOBS = st.sampled_from(["data", "a", "b"])


def add_inputs(draw: st.DrawFn, net: NetParameter) -> None:
    """Inputs with as many sizes as Caffe expects, of either kind, both or none."""
    net.input.extend(draw(st.lists(STRINGS, max_size=2)))
    if draw(st.booleans()):
        net.input_dim.extend(range(4 * len(net.input)))
    if draw(st.booleans()):
        for which in range(len(net.input)):
            net.input_shape.add(dim=[which, 7])


@st.composite
def current_nets(draw: st.DrawFn) -> NetParameter:
    net = draw(messages(NetParameter, without=INPUTS | {"layers"}))
    add_inputs(draw, net)
    for _ in range(draw(st.integers(0, 2))):
        layer = net.layer.add()
        layer.CopyFrom(draw(messages(LayerParameter, without=frozenset({"param"}))))
        layer.type = draw(st.sampled_from(["BatchNorm", "Scale"]))
        for _ in range(draw(st.integers(2, 4))):
            layer.param.add().CopyFrom(draw(messages(type(layer.param.add()))))
    return net


@st.composite
def v1_nets(draw: st.DrawFn) -> NetParameter:
    net = draw(messages(NetParameter, without=INPUTS | {"layer"}))
    add_inputs(draw, net)
    for _ in range(draw(st.integers(1, 4))):
        layer = net.layers.add()
        layer.CopyFrom(draw(messages(V1LayerParameter, without=frozenset({"layer"}))))
        readers = st.sampled_from(["DATA", "IMAGE_DATA", "WINDOW_DATA"])
        types = V1LayerParameter.LayerType.items()
        every = st.sampled_from([name for name, number in types if number < FIRST_OF_FORKS])
        layer.type = V1LayerParameter.LayerType.Value(draw(readers | every))
        groups: list[Message] = [layer.data_param, layer.image_data_param, layer.window_data_param]
        for group in groups:
            if draw(st.booleans()):
                group.CopyFrom(draw(messages(type(group))))
    if draw(st.integers(0, 9)) == 9:
        net.layer.add()
    return net


@st.composite
def v0_nets(draw: st.DrawFn) -> NetParameter:
    net = draw(messages(NetParameter, without=INPUTS | {"layers"}))
    add_inputs(draw, net)
    net.input.append("data")
    net.input_dim.extend(range(4 * len(net.input) - len(net.input_dim)))
    made = ["data"]
    types = st.sampled_from([*upgrade_v0.TYPES, *["padding", "conv", "pool", "data"] * 6])
    for _ in range(draw(st.integers(1, 5))):
        layer = net.layers.add(bottom=[draw(st.sampled_from(made))], top=[draw(BLOBS)])
        layer.layer.CopyFrom(draw(messages(V0LayerParameter)))
        layer.layer.type = draw(types)
        made += layer.top
        if draw(st.integers(0, 19)) == 19:
            layer.bottom.append(draw(BLOBS))
    if draw(st.integers(0, 9)) == 9:
        net.layers.add(name="a V1 layer among them", type="RELU")
    return net


def upgraded(net: NetParameter) -> bytes | None:
    try:
        return prototxt.upgrade_net(net).net.SerializeToString(deterministic=True)
    except PrototxtError:
        return None


@pytest.mark.parametrize("nets", [current_nets(), v1_nets(), v0_nets()], ids=["now", "v1", "v0"])
def test_random_nets_become_what_caffe_makes_of_them(
    nets: st.SearchStrategy[NetParameter], judge: Judge
) -> None:
    cases = collect(nets, 60)
    texts = [prototxt.write(net) for net in cases]
    ours = dict(zip(texts, map(upgraded, cases), strict=True))
    theirs = {
        text: data
        if data is None
        else NetParameter.FromString(data).SerializeToString(deterministic=True)
        for text, (data, _) in zip(texts, judge("NetParameter", texts, upgrade=True), strict=True)
    }
    assert ours == theirs
    assert sum(data is not None for data in ours.values()) >= 20  # not only refusals are compared


def test_a_net_in_current_syntax_stays_as_it_is() -> None:
    net = NetParameter(name="x", layer=[LayerParameter(name="a"), LayerParameter(name="b")])
    found = prototxt.upgrade_net(net)
    assert found.net == net
    assert found.origins == (Origin("current", 0), Origin("current", 1))


def test_layers_know_where_they_came_from() -> None:
    v1 = NetParameter(input=["data"], input_dim=[1, 2, 3, 4])
    v1.layers.add(name="a")
    v1.layers.add(name="b")
    assert prototxt.upgrade_net(v1).origins == (
        Origin("input", 0),
        Origin("v1", 0),
        Origin("v1", 1),
    )


def test_padding_is_folded_into_the_layer_after_it() -> None:
    net = NetParameter(input=["data"], input_dim=[1, 2, 3, 4])
    net.layers.add(layer={"name": "p", "type": "padding", "pad": 2}, bottom=["data"], top=["p"])
    net.layers.add(layer={"name": "c", "type": "conv"}, bottom=["p"], top=["c"])
    net.layers.add(layer={"name": "q", "type": "padding", "pad": 5}, bottom=["c"], top=["q"])
    net.layers.add(layer={"name": "m", "type": "pool", "pad": 9}, bottom=["q"], top=["m"])
    found = prototxt.upgrade_net(net)
    assert [layer.name for layer in found.net.layer] == ["input", "c", "m"]
    assert [list(layer.bottom) for layer in found.net.layer] == [[], ["data"], ["c"]]
    assert list(found.net.layer[1].convolution_param.pad) == [2]
    assert found.net.layer[2].pooling_param.pad == 5
    assert found.origins == (Origin("input", 0), Origin("v0", 1), Origin("v0", 3))


def test_settings_that_v0_drops_are_remarked_and_warned_of() -> None:
    text = 'layers { layer { name: "r" type: "relu" num_output: 5 kernelsize: 3 } }'
    remarks = [
        f"layer 'r': {field} means nothing to a layer of type 'relu' and is dropped, as Caffe does"
        for field in ("num_output", "kernelsize")
    ]
    with pytest.warns(prototxt.PrototxtWarning, match="means nothing") as caught:
        net = prototxt.parse_net(text, path="old.prototxt")
    assert [str(warning.message) for warning in caught] == [f"old.prototxt: {r}" for r in remarks]
    assert net == NetParameter(layer=[LayerParameter(name="r", type="ReLU")])


REFUSED = {
    "layer {} layers {}": "both 'layer' and 'layers'",
    'input: "a" input: "b" input_shape {} layer {}': "2 input but 1 input_shape",
    'input: "a" input_dim: [1, 2, 3] layer {}': "1 input but 3 input_dim",
    'layers { layer { name: "x" type: "Convolution" } }': "2013 has no type 'Convolution'",
    'layers { layer { name: "x" type: "conv" } bottom: "y" }': "'x' reads 'y', which no layer",
    """
        input: "d"
        layers { layer { type: "padding" } bottom: "d" top: "p" }
        layers { layer { name: "x" type: "relu" } bottom: "p" }
    """: "layer 'x' follows a padding layer, which only conv and pool",
    """
        input: "d"
        layers { layer { type: "padding" } bottom: "d" top: "p" }
        layers { layer { name: "x" type: "conv" } bottom: "p" bottom: "d" }
    """: "layer 'x' follows a padding layer, which only conv and pool with one bottom",
    """
        input: "d"
        layers { layer { name: "z" type: "padding" } bottom: "d" bottom: "d" top: "p" }
        layers { layer { name: "x" type: "conv" } bottom: "p" }
    """: "the padding layer 'z' needs one bottom and one top",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_cannot_be_upgraded_is_an_error(text: str, message: str) -> None:
    with pytest.raises(PrototxtError, match=f"^net.prototxt: .*{message}"):
        prototxt.parse_net(text, path="net.prototxt")


def test_caffe_refuses_the_same(judge: Judge) -> None:
    # A net with too few sizes is left out: there C++ reads past the end of its list.
    texts = [text for text, message in REFUSED.items() if "input but" not in message]
    answers = judge("NetParameter", texts, upgrade=True)
    assert [data for data, _ in answers] == [None] * len(texts)


def test_an_unknown_v0_type_gets_the_nearest_name() -> None:
    with pytest.raises(PrototxtError, match="no type 'inner_product'") as caught:
        prototxt.parse_net('layers { layer { type: "inner_product" } }')
    assert caught.value.hint == "Did you mean innerproduct?"


@pytest.mark.parametrize("number", range(6))
def test_solver_types_become_what_caffe_makes_of_them(number: int, judge: Judge) -> None:
    text = f'net: "n.prototxt" solver_type: {number}'
    ((data, _),) = judge("SolverParameter", [text], upgrade=True)
    assert data is not None
    assert prototxt.parse_solver(text) == SolverParameter.FromString(data)


def test_a_solver_with_both_types_is_refused_as_caffe_does(judge: Judge) -> None:
    text = 'type: "Adam" solver_type: ADAM'
    assert judge("SolverParameter", [text], upgrade=True)[0][0] is None
    with pytest.raises(PrototxtError, match="both 'type' and the older 'solver_type'"):
        prototxt.parse_solver(text)


def test_nets_inside_a_solver_are_upgraded_with_a_warning() -> None:
    text = """
        train_net_param { layers { type: RELU name: "a" } }
        test_net_param { layer { name: "b" } }
        test_net_param { input: "d" input_dim: [1, 2, 3, 4] }
    """
    with pytest.warns(prototxt.PrototxtWarning, match="Caffe ignores inside a solver") as caught:
        solver = prototxt.parse_solver(text)
    assert [str(warning.message).split()[0] for warning in caught] == [
        "train_net_param",
        "test_net_param",
    ]
    nets = [solver.train_net_param, *solver.test_net_param]
    assert [[layer.name for layer in net.layer] for net in nets] == [["a"], ["b"], ["input"]]


SOLVER_WITH_OLD_NET = """
    base_lr: 1 lr_policy: "fixed"
    net_param {
      layers {
        name: "d" type: DUMMY_DATA top: "d"
        dummy_data_param { num: 1 channels: 2 height: 3 width: 4 }
      }
    }
"""


def test_caffe_ignores_old_syntax_inside_a_solver(
    pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "solver.prototxt"
    file.write_text(SOLVER_WITH_OLD_NET)
    code = "import caffe, sys; print(len(caffe.get_solver(sys.argv[1]).net.layers))"
    assert pycaffe(code, str(file)).split() == ["0"]
