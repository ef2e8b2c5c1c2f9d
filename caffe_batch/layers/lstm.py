"""LSTM and the LSTMUnit that it runs at every time step.

Source: lstm_layer.cpp, .hpp; lstm_unit_layer.cpp, .cu; see recurrent.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Layer,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    refuse_gradient,
)
from caffe_batch.layers.recurrent import (
    Recurrent,
    concat_layer,
    restart,
    slice_layer,
    static_transform,
    sum_layer,
    transform,
)
from caffe_batch.layers.sides import bottom, own, sides, top


class LSTM(Recurrent):
    type = "LSTM"
    bottoms = (2, 5)
    tops = (1, 3)
    output = "h"
    hidden = ("h_0", "c_0")
    gates = 4

    def last_hidden(self, steps: int) -> tuple[str, ...]:
        return (f"h_{steps}", "c_T")

    def steps(self, outputs: int, steps: int, *, static: bool) -> Iterator[Layer]:
        times = range(1, steps + 1)
        gates = 4 * outputs
        yield slice_layer("cont_slice", "cont", [f"cont_{t}" for t in times])
        yield transform("x_transform", "x", "W_xc_x", gates, ("W_xc", "b_c"), propagate=True)
        if static:
            yield from static_transform("W_xc", gates)
        yield slice_layer("W_xc_x_slice", "W_xc_x", [f"W_xc_x_{t}" for t in times])
        for t in times:
            yield restart(f"h_conted_{t - 1}", f"h_{t - 1}", f"cont_{t}")
            yield transform(
                f"transform_{t}", f"h_conted_{t - 1}", f"W_hc_h_{t - 1}", gates, ("W_hc",)
            )
            parts = (f"W_hc_h_{t - 1}", f"W_xc_x_{t}", *(("W_xc_x_static",) if static else ()))
            yield sum_layer(f"gate_input_{t}", parts, f"gate_input_{t}")
            yield Layer(
                f"unit_{t}",
                "LSTMUnit",
                bottoms=(f"c_{t - 1}", f"gate_input_{t}", f"cont_{t}"),
                tops=(f"c_{t}", f"h_{t}"),
            )
        yield Layer("", "Split", bottoms=(f"c_{steps}",), tops=("c_T",))
        yield concat_layer("h_concat", [f"h_{t}" for t in times], "h")


class LSTMUnit(Rule):
    """Bottoms: cell state (1, N, D), gate inputs (1, N, 4D), cont (1, N). Tops: cell, hidden."""

    type = "LSTMUnit"
    bottoms = (3, 3)
    tops = (2, 2)
    forced_bottoms = (True, True, False)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        cell, gates, cont = site.bottoms
        streams = cell[1:2]
        if (
            [len(bottom) for bottom in site.bottoms] != [3, 3, 2]
            or any(bottom[:2] != (1, *streams) for bottom in site.bottoms)
            or gates[2] != 4 * cell[2]
        ):
            raise ShapeError(
                "the bottoms of an LSTMUnit are (1, N, D), (1, N, 4*D) and (1, N), not "
                f"{cell}, {gates}, {cont}"
            )
        return (cell, cell)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(0, *range(2, len(site.bottoms[0]))))

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 2, "the sequence continuation indicators")
        gpu = mode == "gpu"  # only the GPU keeps the activations; the CPU computes them again
        acts = (own("X_acts_").data,) if gpu else ()
        acts_diff = (own("X_acts_").diff,) if gpu else ()
        data = (*sides(bottom, 3, "data"), *sides(top, 2, "data"), *acts)
        diffs = (top(0).diff, top(1).diff, bottom(0).diff, bottom(1).diff, *acts_diff)
        return Memory(
            buffers=(Buffer("X_acts_", count(site.bottoms[1])),),
            forward=data,
            backward=diffs if any(site.bottom_need[:2]) else (),
        )
