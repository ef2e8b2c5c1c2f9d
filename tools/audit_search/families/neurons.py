"""Layers that work element by element, without parameters."""

from __future__ import annotations

from tools.audit_search.grower import Drawn, dead_end, neuron

TYPES: dict[str, Drawn] = {
    "AbsVal": neuron(share=0),
    "BNLL": neuron(),
    "Clip": neuron("clip_param { min: -0.3 max: 0.6 }"),
    "Dropout": neuron("", "dropout_param { dropout_ratio: 0.3 }"),
    "ELU": neuron("", "elu_param { alpha: 0.5 }", "elu_param { alpha: -0.5 }"),
    "Exp": neuron("exp_param { scale: 0.3 }", "exp_param { base: 2 scale: -0.4 shift: 0.1 }"),
    "Log": neuron("log_param { scale: 0.1 shift: 3 }", "log_param { base: 2 scale: 0.2 shift: 4 }"),
    "Power": neuron(
        "power_param { power: 2 scale: 0.5 shift: 0.3 }",
        "power_param { scale: 2 shift: 0.1 }",
        "power_param { scale: -0.5 }",
        "power_param { power: 3 scale: 0.3 shift: 0.2 }",
        "power_param { power: 3 scale: 0.4 }",
        "power_param { power: 0 }",
        "power_param { scale: 0 shift: 0.7 }",
        "power_param { power: 2 }",
    ),
    "ReLU": neuron("", *(f"relu_param {{ negative_slope: {slope} }}" for slope in (0, 0.2, -0.3))),
    "Sigmoid": neuron(),
    "Swish": neuron("", "swish_param { beta: 1.5 }"),
    "TanH": neuron(),
    "Threshold": dead_end("threshold_param { threshold: 0.3 }"),
}
