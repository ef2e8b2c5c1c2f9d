"""RNN: tanh for the hidden state, tanh for the output. Source: rnn_layer.cpp; see recurrent.py."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.layers.base import Layer, Shape, Site, filled
from caffe_batch.layers.recurrent import (
    Recurrent,
    RecurrentSettings,
    concat_layer,
    restart,
    slice_layer,
    static_transform,
    sum_layer,
    transform,
)


class RNN(Recurrent):
    type = "RNN"
    bottoms = (2, 4)
    tops = (1, 2)
    output = "o"
    hidden = ("h_0",)
    gates = 1

    def last_hidden(self, steps: int) -> tuple[str, ...]:
        return (f"h_{steps}",)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: RecurrentSettings = site.settings
        output = filled((s.num_output, s.num_output), s.weight_filler)
        return (*super().parameters(site), output, filled((s.num_output,), s.bias_filler))

    def steps(self, outputs: int, steps: int, *, static: bool) -> Iterator[Layer]:
        times = range(1, steps + 1)
        yield slice_layer("cont_slice", "cont", [f"cont_{t}" for t in times])
        yield transform("x_transform", "x", "W_xh_x", outputs, ("W_xh", "b_h"), propagate=True)
        if static:
            yield from static_transform("W_xh", outputs)
        yield slice_layer("W_xh_x_slice", "W_xh_x", [f"W_xh_x_{t}" for t in times])
        for t in times:
            yield restart(f"h_conted_{t - 1}", f"h_{t - 1}", f"cont_{t}")
            yield transform(
                f"W_hh_h_{t - 1}", f"h_conted_{t - 1}", f"W_hh_h_{t - 1}", outputs, ("W_hh",)
            )
            parts = (f"W_hh_h_{t - 1}", f"W_xh_x_{t}", *(("W_xh_x_static",) if static else ()))
            yield sum_layer(f"h_input_sum_{t}", parts, f"h_neuron_input_{t}")
            yield Layer(f"h_neuron_{t}", "TanH", bottoms=(f"h_neuron_input_{t}",), tops=(f"h_{t}",))
            yield transform(f"W_ho_h_{t}", f"h_{t}", f"W_ho_h_{t}", outputs, ("W_ho", "b_o"))
            yield Layer(f"o_neuron_{t}", "TanH", bottoms=(f"W_ho_h_{t}",), tops=(f"o_{t}",))
        yield concat_layer("o_concat", [f"o_{t}" for t in times], "o")
