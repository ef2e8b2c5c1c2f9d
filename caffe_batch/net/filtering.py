"""Which layers of a prototxt belong to a net, given its phase, level and (NetState) stages.

Source: net.cpp (FilterNet, StateMeetsRule), solver.cpp (the order in which states are merged).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf import text_format

from caffe_batch.errors import NetError
from caffe_batch.layers.base import Phase
from caffe_batch.schema import caffe_pb2


def net_state(
    phase: Phase, net: caffe_pb2.NetParameter, extra: caffe_pb2.NetState | None = None
) -> caffe_pb2.NetState:
    """The state that a solver builds ``net`` for.

    The solver's phase comes first, then the net's own ``state``, then the solver's ``train_state``
    or ``test_state`` (``extra``); later ones win, stages add up.
    """
    state = caffe_pb2.NetState(phase=caffe_pb2.Phase.Value(phase))
    state.MergeFrom(net.state)
    if extra is not None:
        state.MergeFrom(extra)
    return state


def meets(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Whether every condition that the rule sets holds; a rule without conditions always does."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)


def included(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState) -> bool:
    """Whether the layer is part of the net.

    Raises:
        NetError: The layer has both include and exclude rules.
    """
    if layer.include and layer.exclude:
        raise NetError(
            "has include and exclude rules; Caffe takes only one kind",
            layer=layer.name,
            hint="Keep the include rules or the exclude rules.",
        )
    if layer.include:
        return any(meets(state, rule) for rule in layer.include)
    return not any(meets(state, rule) for rule in layer.exclude)


def select(
    layers: Iterable[caffe_pb2.LayerParameter], state: caffe_pb2.NetState
) -> list[tuple[int, caffe_pb2.LayerParameter]]:
    """The layers of the net, each with its index in the file."""
    return [(index, layer) for index, layer in enumerate(layers) if included(layer, state)]


def left_out_by(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState) -> str:
    """The rules that keep a layer out of a net of this state, as they are written."""
    name, rules = ("include", layer.include) if layer.include else ("exclude", layer.exclude)
    return " ".join(
        f"{name} {{ {text_format.MessageToString(rule, as_one_line=True)} }}"
        for rule in rules
        if meets(state, rule) == (name == "exclude")
    )


def missing_stages(
    layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState
) -> Sequence[str] | None:
    """The stages that a state lacks for a layer to be part of its net; None if they don't do."""
    for rule in layer.include:
        with_stages = caffe_pb2.NetState()
        with_stages.CopyFrom(state)
        with_stages.stage.extend(rule.stage)
        if rule.stage and meets(with_stages, rule):
            return [stage for stage in rule.stage if stage not in state.stage]
    return None
