"""Layers that run over time."""

from __future__ import annotations

from tools.audit_search.grower import Drawn, Grower, N, layer
from tools.audit_search.nets import DrawnLayer


def recurrent(hidden: int) -> Drawn:
    def drawn(g: Grower) -> DrawnLayer:
        if not g.steps:  # no time beside a source of records
            return layer((), ())
        shape = (g.steps, N, g.draw.randint(2, 4))
        x = g.pick(lambda b: b.shape[:2] == (g.steps, N) and len(b.shape) > 2, shape)
        if g.cont is None:
            g.cont = g.integers((g.steps, N))
        width = g.draw.randint(2, 3)
        bottoms, tops = [x, g.cont], [g.name("t")]
        if g.often(0.15):
            bottoms.append(g.flat(g.draw.randint(2, 4)))
        exposed = g.often(0.8)
        if exposed:
            bottoms += [g.fresh((1, N, width)) for _ in range(hidden)]
            tops += [g.name("t") for _ in range(hidden)]
        settings = (
            f"recurrent_param {{ num_output: {width} {g.filler()} {g.small_filler('bias_filler')} "
            f"{'expose_hidden: true' if exposed else ''} }}"
        )
        return layer(tuple(bottoms), tuple(tops), settings)

    return drawn


def first_axis(g: Grower, bottom: str) -> str:
    """The same blob behind a new axis of one."""
    top = g.name("t")
    g.append(DrawnLayer(g.name("l"), "Reshape", (bottom,), (top,),
                        "reshape_param { num_axes: 0 shape { dim: 1 } }"))  # fmt: skip
    return top


def lstm_unit(g: Grower) -> DrawnLayer:
    width = g.draw.randint(2, 3)
    cell = first_axis(g, g.flat(width) if g.often(0.6) else g.fresh((N, width)))
    gates, cont = first_axis(g, g.flat(4 * width)), first_axis(g, g.integers((N,)))
    return layer((cell, gates, cont), (g.name("t"), g.name("t")))


TYPES: dict[str, Drawn] = {
    "LSTM": recurrent(2),
    "LSTMUnit": lstm_unit,
    "RNN": recurrent(1),
}
