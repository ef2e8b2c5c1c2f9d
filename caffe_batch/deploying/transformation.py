"""The net for inference: a TEST net without its data layers, losses and scores.

What a loss computed inside (the Softmax of SoftmaxWithLoss) becomes a layer of its own. What only
the losses needed, labels above all, goes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import Message

from caffe_batch.errors import NetError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Rule, Shape
from caffe_batch.layers.input import Input
from caffe_batch.layers.registry import Registry
from caffe_batch.net.batch import batch_sites
from caffe_batch.net.graph import Net, build
from caffe_batch.net.kinds import kind
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import write
from caffe_batch.schema import caffe_pb2

#: What a Softmax or Sigmoid that takes the place of a loss is called, where the name is free.
PROBABILITIES = "prob"

#: Fields of a layer that say something about training or choose the net it is in.
_OF_TRAINING = ("include", "exclude", "loss_weight", "propagate_down", "phase", "blobs")


@dataclass(frozen=True)
class Output:
    """A blob that the net for inference gives.

    Attributes:
        name: The blob.
        source: The blob of the TEST net that it is computed from, which may be itself.
        made_by: The type of the layer that took the place of a loss; empty if there is none.
        shape: Its shape, for the batch of the net.
        classes: Whether axis 1 is that of the classes, one of which is the answer.
        probabilities: Whether its values are.
    """

    name: str
    source: str
    made_by: str
    shape: Shape
    classes: bool
    probabilities: bool

    @property
    def is_map(self) -> bool:
        """Whether there is an answer for each place of a picture."""
        return self.classes and len(self.shape) == 4 and max(self.shape[2:]) > 1


@dataclass(frozen=True)
class Deployed:
    """A net for inference.

    Attributes:
        message: The net.
        inputs: Shape of each input by name, for one sample.
        data_layers: Name of the TEST net's layer that filled each input.
        outputs: What it gives: the blobs that no layer reads.
        notes: What was left out, beside losses, scores and labels.
    """

    message: caffe_pb2.NetParameter
    inputs: Mapping[str, Shape]
    data_layers: Mapping[str, str]
    outputs: tuple[Output, ...]
    notes: tuple[str, ...]

    def text(self, comment: str = "") -> str:
        """The prototxt."""
        head = "".join(f"# {line}\n" for line in comment.splitlines())
        return head + write(self.message)


@dataclass(frozen=True)
class _Use:
    """A layer at its place: the producers of its bottoms, as indices of layers."""

    message: caffe_pb2.LayerParameter
    rule: Rule
    reads: tuple[tuple[int, str], ...]
    data: bool
    learns: bool
    weight: float
    labelled: bool


@dataclass(frozen=True)
class _Candidate:
    """A prediction that a loss or a score reads, or a blob that no layer reads."""

    made: tuple[int, str]
    loss: caffe_pb2.LayerParameter | None
    rule: Rule | None
    weight: float
    targets: frozenset[tuple[int, str]]
    classes: bool
    probabilities: bool


def deployed(file: NetFile, sources: Sources, *, allow_unknown: bool = False) -> Deployed:
    """The net for inference that belongs to a TEST net.

    Args:
        file: The TEST net.
        sources: Where its data is looked up, for the sizes of the records.
        allow_unknown: Accept layer types without a rule.

    Raises:
        InputError: The sizes of the records aren't known.
        NetError: The net can't be built, or nothing is left of it that would give an answer.
    """
    layers = file.layers(sources, allow_unknown=allow_unknown)
    net = file.build(layers)
    uses = _uses(file, net)
    ancestors = _ancestors(uses)

    def learned(index: int) -> bool:
        return any(uses[each].learns for each in ancestors[index])

    dropped = {i for i, use in enumerate(uses) if _only_compares(use)}
    candidates, notes = _without_auxiliary(_candidates(file, uses, dropped, ancestors, learned))
    if not candidates:
        raise NetError(
            "nothing in the TEST net makes a prediction",
            hint="A net for inference is what is left without data layers, losses and scores.",
        )
    kept = set[int]().union(*(ancestors[each.made[0]] for each in candidates))
    message = caffe_pb2.NetParameter(name=file.message.name)
    single = _single_shapes(layers, net)
    read = {each for index in kept for each in uses[index].reads}
    owners = {
        top: use.message.name
        for index, use in enumerate(uses) if use.data
        for top in use.message.top if (index, top) in read
    }  # fmt: skip
    inputs = {top: single[top] for top in owners}
    for name, shape in inputs.items():
        layer = message.layer.add(name=name, type=Input.type, top=[name])
        layer.input_param.shape.add(dim=shape)
    for index in sorted(kept):
        if not uses[index].data:
            message.layer.add().CopyFrom(_cleaned(uses[index]))
    outputs = list(_with_probabilities(message, candidates))
    shapes = _fitted(message, inputs, net, file.rules, allow_unknown=allow_unknown)
    return Deployed(
        message,
        {name: shapes[name] for name in inputs},
        owners,
        tuple(
            Output(name, each.made[1], made_by, shapes[name], each.classes, certain)
            for name, each, made_by, certain in outputs
        ),
        notes,
    )


def _uses(file: NetFile, net: Net) -> list[_Use]:
    """The layers of the TEST net with what they read, in order; no Splits among them."""
    nodes = [node for node in net.nodes if node.layer.rule is not None]
    made: dict[str, int] = {}
    uses: list[_Use] = []
    sources = [
        not node.bottoms and not node.params and not node.rule.coupling(node.site).lasting
        for node in nodes
    ]
    some = any(sources)
    for index, ((_, message), node) in enumerate(zip(file.selected(), nodes, strict=True)):
        reads = tuple((made[name], name) for name in message.bottom)
        data = sources[index] if some else not node.bottoms and not node.params
        weight = max((abs(each) for each in node.loss), default=0.0)
        labels = node.rule.labels(node.site)
        labelled = labels is not None and labels.classes is not None
        uses.append(_Use(message, node.rule, reads, data, bool(node.params), weight, labelled))
        made.update(dict.fromkeys(message.top, index))
    return uses


def _ancestors(uses: Sequence[_Use]) -> list[frozenset[int]]:
    """For each layer: itself and the layers that its tops depend on.

    A layer that works in place on a blob changes it for those after it, which therefore read it.
    """
    found: list[frozenset[int]] = []
    for index, use in enumerate(uses):
        before = (found[maker] for maker, _ in use.reads)
        found.append(frozenset([index]).union(*before))
    return found


def _only_compares(use: _Use) -> bool:
    """Whether a layer is there for training and tests alone."""
    return (
        use.rule.is_loss
        or use.rule.is_score
        or use.rule.writes_files
        or (bool(use.reads) and not use.message.top)
        or (bool(use.reads) and use.weight > 0)
    )


def _candidates(
    file: NetFile,
    uses: Sequence[_Use],
    dropped: set[int],
    ancestors: Sequence[frozenset[int]],
    learned: Callable[[int], bool],
) -> list[_Candidate]:
    """The predictions of a net, each once, in the order of the layers."""
    found: dict[tuple[int, str], _Candidate] = {}
    scoring = {rule.scored_by for rule in BUILT_IN.values() if rule.scored_by}
    read_by_kept = {
        each for index, use in enumerate(uses) if index not in dropped for each in use.reads
    }
    for index, use in enumerate(uses):
        if index not in dropped:
            continue
        predictions = [each for each in use.reads if learned(each[0])]
        targets = frozenset[tuple[int, str]]().union(
            *(_data_behind(uses, each) for each in use.reads if each not in predictions)
        )
        loss = use.rule.is_loss or use.weight > 0
        for made in predictions:
            known = found.get(made)
            classes = use.labelled or (known is not None and known.classes)
            if known is None or (loss and known.loss is None):
                scored = bool(use.rule.scored_by)
                found[made] = _Candidate(
                    made,
                    use.message if scored else None,
                    use.rule if scored else None,
                    use.weight if loss else 0.0,
                    targets,
                    classes,
                    False,
                )
            found[made] = replace(found[made], classes=classes)
    for index, use in enumerate(uses):
        for top in use.message.top:
            made = (index, top)
            unread = made not in read_by_kept and made not in found
            if index not in dropped and unread and learned(index) and not _rewritten(uses, made):
                classes = (
                    any(known.classes and known.made in use.reads for known in found.values())
                    and use.message.type in scoring
                )
                found[made] = _Candidate(made, None, None, 0.0, frozenset(), classes, False)
    found = {
        made: replace(
            _as_in_training(file, each), probabilities=uses[made[0]].message.type in scoring
        )
        for made, each in found.items()
    }
    below = {
        maker
        for made in found for maker in ancestors[made[0]] if maker != made[0]
    }  # fmt: skip
    return [
        each for made, each in sorted(found.items())
        if made[0] not in below or (each.loss is not None and not _has_scores(uses, each))
    ]  # fmt: skip


def _data_behind(uses: Sequence[_Use], made: tuple[int, str]) -> frozenset[tuple[int, str]]:
    """The tops of data layers that a blob without parameters behind it is made of."""
    use = uses[made[0]]
    if not use.reads:
        return frozenset([made])
    return frozenset[tuple[int, str]]().union(*(_data_behind(uses, each) for each in use.reads))


def _rewritten(uses: Sequence[_Use], made: tuple[int, str]) -> bool:
    """Whether a later layer works in place on a blob, and so makes the one that counts."""
    return any(made[1] in use.message.top for use in uses[made[0] + 1 :])


def _has_scores(uses: Sequence[_Use], candidate: _Candidate) -> bool:
    """Whether the TEST net itself has the layer that would take the place of a loss."""
    assert candidate.rule is not None  # noqa: S101  # it has a loss
    return any(
        use.message.type == candidate.rule.scored_by and candidate.made in use.reads for use in uses
    )


def _as_in_training(file: NetFile, candidate: _Candidate) -> _Candidate:
    """The candidate with the loss that reads the blob in another phase, if none does in TEST."""
    if candidate.loss is not None or candidate.weight:
        return candidate
    for layer in file.message.layer:
        rule = file.rules.get(kind(layer))
        if rule and rule.scored_by and candidate.made[1] in layer.bottom[:1]:
            return replace(candidate, loss=layer, rule=rule)
    return candidate


def _without_auxiliary(
    candidates: Sequence[_Candidate],
) -> tuple[list[_Candidate], tuple[str, ...]]:
    """The candidates without those of losses that only help: same labels, smaller weight."""
    kept: list[_Candidate] = []
    notes: list[str] = []
    for each in candidates:
        stronger = any(
            each.targets and each.targets == other.targets and 0 < each.weight < other.weight
            for other in candidates
        )
        if stronger:
            notes.append(
                f"{each.made[1]!r} is left out: its loss has weight {each.weight:g}, and another "
                "loss with the same labels has more"
            )
        else:
            kept.append(each)
    return kept, tuple(notes)


def _with_probabilities(
    message: caffe_pb2.NetParameter, candidates: Iterable[_Candidate]
) -> Iterable[tuple[str, _Candidate, str, bool]]:
    """Adds the layers that take the place of losses.

    Yields the name of each output, what it is, the type of the layer that was added, and whether
    it holds probabilities. Where several layers need a name, those after the first are called
    after their blob.
    """
    for each in candidates:
        blob = each.made[1]
        if each.rule is None or each.loss is None:
            yield blob, each, "", each.probabilities
            continue
        taken = {layer.name for layer in message.layer}
        taken |= {top for layer in message.layer for top in layer.top}
        name = PROBABILITIES if PROBABILITIES not in taken else f"{blob}_{PROBABILITIES}"
        while name in taken:
            name += "_"
        layer = message.layer.add(name=name, type=each.rule.scored_by, bottom=[blob], top=[name])
        settings: Any = BUILT_IN[each.rule.scored_by].message
        if settings and each.loss.HasField(settings):
            getattr(layer, settings).CopyFrom(getattr(each.loss, settings))
        yield name, each, each.rule.scored_by, True


def _single_shapes(layers: Sequence[Any], net: Net) -> dict[str, Shape]:
    """The shapes of the blobs that layers without bottoms make, with a batch of one sample."""
    shapes: dict[str, Shape] = {}
    for layer in layers:
        if not layer.bottoms:
            shapes |= {top: net.blob_shapes[top] for top in layer.tops}
    for site in batch_sites(layers):
        layer = layers[site.layer]
        if layer.bottoms:
            continue
        tops = layer.tops
        if site.shape is not None and len(layer.rule.literal_shapes(layer.settings)) > 1:
            tops = tops[site.shape : site.shape + 1]
        for top in tops:
            shapes[top] = tuple(
                1 if axis == site.axis else size for axis, size in enumerate(shapes[top])
            )
    return shapes


def _fitted(
    message: caffe_pb2.NetParameter,
    inputs: Mapping[str, Shape],
    net: Net,
    rules: Registry,
    *,
    allow_unknown: bool,
) -> dict[str, Shape]:
    """The shapes of all blobs; a net that doesn't take a single sample keeps the TEST batch."""
    try:
        return shapes_of(message, rules, allow_unknown=allow_unknown)
    except NetError:
        for layer in message.layer:
            if layer.name in inputs:
                layer.input_param.shape[0].dim[:] = net.blob_shapes[layer.name]
        return shapes_of(message, rules, allow_unknown=allow_unknown)


def shapes_of(
    message: caffe_pb2.NetParameter, rules: Registry, *, allow_unknown: bool = False
) -> dict[str, Shape]:
    """The shapes of the blobs of a net for inference.

    Raises:
        NetError: Caffe would refuse it.
    """
    file = inference_file(message, rules)
    layers = file.layers(Sources(()), allow_unknown=allow_unknown)
    return build(layers, phase="TEST").blob_shapes


def inference_file(message: caffe_pb2.NetParameter, rules: Registry) -> NetFile:
    """A net for inference as other rooms take it."""
    return NetFile(message, None, caffe_pb2.NetState(phase=caffe_pb2.TEST), rules)


def _cleaned(use: _Use) -> caffe_pb2.LayerParameter:
    """A layer without what concerns its training; parameters that it shares keep their names."""
    layer = caffe_pb2.LayerParameter()
    layer.CopyFrom(use.message)
    for field in _OF_TRAINING:
        layer.ClearField(field)  # type: ignore[arg-type]  # the stubs list every literal name
    for spec in layer.param:
        spec.ClearField("lr_mult")
        spec.ClearField("decay_mult")
    if not any(spec.name for spec in layer.param):
        layer.ClearField("param")
    if use.learns:
        for _, value in layer.ListFields():
            for inner, _ in value.ListFields() if isinstance(value, Message) else ():
                if inner.message_type is caffe_pb2.FillerParameter.DESCRIPTOR:
                    value.ClearField(inner.name)
    return layer
