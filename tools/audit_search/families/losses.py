"""Losses, and the accuracy."""

from __future__ import annotations

from tools.audit_search.grower import Blob, Drawn, Grower, N, layer
from tools.audit_search.nets import DrawnLayer


def accuracy(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
    tops = (g.name("t"),) if g.often(0.8) else (g.name("t"), g.name("t"))
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), tops)


def normalization(g: Grower) -> str:
    kinds = ("FULL", "BATCH_SIZE", "NONE", "VALID")
    written = ("", "normalize: false", "normalize: true")
    kind = g.draw.choice((*written, *(f"normalization: {kind}" for kind in kinds)))
    ignore = "ignore_label: 1" if g.often(0.1) else ""
    return f"loss_param {{ {kind} {ignore} }}"


def label_loss(g: Grower) -> DrawnLayer:
    """SoftmaxWithLoss: rows, or maps with a label a place."""
    settings = normalization(g)
    if g.often(0.25):
        bottom = g.maps()
        shape = g.blobs[bottom].shape
        label = g.integers((shape[0], *shape[2:]))
    else:
        bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
        label = g.labels(g.blobs[bottom].shape[1])
    tops = (g.name("t"), g.name("t")) if g.often(0.15) else (g.name("t"),)
    return layer((bottom, label), tops, settings)


def hinge(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
    settings = g.draw.choice(("", "hinge_loss_param { norm: L2 }"))
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), g.name("t"), settings)


def multinomial(g: Grower) -> DrawnLayer:
    bottom, top = g.flat(g.draw.choice((2, 3, 4, 5))), g.name("t")
    kind = "Softmax" if g.often(0.7) else "Sigmoid"
    if g.append(DrawnLayer(g.name("l"), kind, (bottom,), (top,))):
        bottom = top
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), g.name("t"))


def infogain(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4)))
    classes = g.blobs[bottom].shape[1]
    matrix, name = g.name("d"), g.name("in")
    settings = (
        f"dummy_data_param {{ shape {{ dim: {classes} dim: {classes} }} "
        "data_filler { value: 0.4 } }"
    )
    g.sources.append(DrawnLayer(name, "DummyData", tops=(matrix,), settings=settings))
    g.blobs[matrix] = Blob((classes, classes), classes=-1)
    return layer((bottom, g.labels(classes), matrix), g.name("t"), normalization(g))


def sigmoid_loss(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    return layer((bottom, g.integers(g.blobs[bottom].shape)), g.name("t"), normalization(g))


def euclidean(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    return layer((bottom, g.alike(bottom)), g.name("t"))


def contrastive(g: Grower) -> DrawnLayer:
    width = g.draw.randint(2, 4)
    legacy = g.draw.choice(("true", "false"))
    settings = f"contrastive_loss_param {{ margin: 2 legacy_version: {legacy} }}"
    return layer((g.flat(width), g.flat(width), g.integers((N,))), g.name("t"), settings)


TYPES: dict[str, Drawn] = {
    "Accuracy": accuracy,
    "ContrastiveLoss": contrastive,
    "EuclideanLoss": euclidean,
    "HingeLoss": hinge,
    "InfogainLoss": infogain,
    "MultinomialLogisticLoss": multinomial,
    "SigmoidCrossEntropyLoss": sigmoid_loss,
    "SoftmaxWithLoss": label_loss,
}
