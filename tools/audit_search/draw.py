"""Random nets over all layer types and solvers: a seed makes a training.

A net grows layer by layer (grower.py). Each type's own function (families/) picks blobs that the
type can take, makes new inputs where there are none, and writes settings; the layer's rule says
which shapes leave it, and where it refuses, another try is made. What any layer can have (in place,
loss weights, shared or frozen parameters, propagate_down, ...) is added on top.
"""

from __future__ import annotations

import random
from dataclasses import replace

from tools.audit_search.families import (
    learned,
    losses,
    neurons,
    norms,
    recurrent,
    shaping,
    sources,
    windows,
)
from tools.audit_search.grower import Blob, Drawn, Grower, N
from tools.audit_search.nets import Case, DrawnLayer
from tools.audit_search.sources import CLASSES

SOLVERS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")

#: A function for each layer type, in the order in which a seed draws them.
TYPES: dict[str, Drawn] = dict(
    sorted(
        (kind, drawn)
        for family in (learned, losses, neurons, norms, recurrent, shaping, windows)
        for kind, drawn in family.TYPES.items()
    )
)

#: Recurrent layers and those without a gradient find a place less often than others.
WEIGHTS = [
    3 if kind in ("LSTM", "RNN") else 1.5 if kind in ("ArgMax", "Threshold", "Embed") else 1
    for kind in TYPES
]

#: Losses for what has no reader in the end.
LAST = ("EuclideanLoss", "SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "Reduction", "HingeLoss",
        "ContrastiveLoss", "InfogainLoss", "MultinomialLogisticLoss")  # fmt: skip


def draw_case(seed: int, folder: str) -> Case:
    """The training of a seed; sources lie in the folder (see sources.py)."""
    grower = Grower(seed, folder)
    draw = grower.draw
    _start(grower)
    for _ in range(draw.randint(3, 9)):
        if not (grower.often(0.15) and grower.add_twin()):
            _add(grower, draw.choices(list(TYPES), WEIGHTS)[0])
    if not any(spec.learned for spec in grower.blobs.values()):
        _add(grower, "InnerProduct")
    _close(grower)
    layers = (*grower.sources, *grower.layers)
    if grower.often(0.1):  # another phase's layers are left out
        layers = (*layers, DrawnLayer("left_out", "Silence", (layers[0].tops[0],),
                                      rules="include { phase: TEST }"))  # fmt: skip
    net = {"force_backward": "true"} if grower.often(0.08) else {}
    batch_size = draw.choice((1, 1, 1, 2, 2, 3, 4))
    return Case(layers, _solver(draw), batch_size, draw.choice((2, 2, 3, 3, 4)), net)


def _start(grower: Grower) -> None:
    """The first source: a data layer of its own, or inputs."""
    kind = grower.draw.choice((*sources.SOURCES, *["Input"] * 5))
    if kind not in sources.SOURCES:
        draw = grower.draw
        grower.fresh((N, draw.randint(2, 4), draw.randint(3, 6), 5))
        return
    grower.batched, grower.steps = True, 0
    labels = sources.SOURCES[kind](grower)
    grower.blobs[labels] = Blob((N,), classes=CLASSES if kind != "MemoryData" else -1)


def _add(grower: Grower, layer_type: str) -> bool:
    """Adds a layer of a type, after some tries."""
    for _ in range(6):
        layer = TYPES[layer_type](grower)
        layer = replace(layer, name=grower.name("l"), type=layer_type)
        if (layer.bottoms or layer.tops) and grower.append(layer):
            return True
    return False


def _close(grower: Grower) -> None:
    """Losses for most of what learns and has no reader; at least one in all."""
    open_ends = [n for n, b in grower.blobs.items() if b.learned and not b.readers and not b.dead]
    done = 0
    for name in open_ends:
        if grower.blobs[name].readers or (done and grower.often(0.4)):
            continue
        shape = grower.blobs[name].shape
        bottoms: tuple[str, ...] = (name,)
        weights: tuple[float, ...] = ()
        if len(shape) > 1 and shape[0] == N and grower.often(0.6):
            bottoms = (name, grower.fresh(shape))
            settings, kind = "", "EuclideanLoss"
        else:
            kind, weights = "Reduction", (0.5,)
            settings = "reduction_param { operation: SUMSQ coeff: 0.2 }"
        layer = DrawnLayer(grower.name("l"), kind, bottoms, (grower.name("t"),), settings)
        if grower.append(layer):
            grower.layers[-1] = replace(
                grower.layers[-1], loss_weights=weights, propagate_down=(), rules=""
            )
            done += 1
    if not done:
        _add(grower, grower.draw.choice(LAST))
        last = grower.layers[-1]
        weights = (round(grower.draw.uniform(0.2, 1.5), 2), *(0,) * (len(last.tops) - 1))
        grower.layers[-1] = replace(last, loss_weights=weights, propagate_down=(), rules="")


def _solver(draw: random.Random) -> dict[str, str]:
    kind = draw.choice(SOLVERS)
    fields = {
        "type:": f'"{kind}"',
        "base_lr:": str(draw.choice((0.001, 0.01, 0.05))),
        "lr_policy:": draw.choice(('"fixed"', '"step" gamma: 0.5 stepsize: 2',
                                   '"inv" gamma: 0.1 power: 0.75', '"poly" power: 1')),
        "max_iter:": "20",
        "random_seed:": str(draw.randint(1, 1000)),
        "average_loss:": str(draw.choice((1, 2))),
        "train_state": '{ stage: "on" }',
    }  # fmt: skip
    if kind in ("SGD", "Nesterov", "Adam", "AdaDelta") and draw.random() < 0.8:
        fields["momentum:"] = "0.9"
    if kind in ("AdaDelta", "AdaGrad", "RMSProp"):
        fields["delta:"] = "1e-6"
    if draw.random() < 0.5:
        fields["weight_decay:"] = draw.choice(("0.01", "0.3"))
        fields["regularization_type:"] = draw.choice(('"L1"', '"L2"', '"L2"'))
    if draw.random() < 0.3:
        fields["clip_gradients:"] = draw.choice(("0.01", "0.3", "10"))
    if draw.random() < 0.2:
        fields["iter_size:"] = draw.choice(("2", "3"))
    return fields
