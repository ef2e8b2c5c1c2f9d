"""Hostile nets and solvers: drawn or shipped ones, with a few things in them changed."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

from google.protobuf.text_encoding import CEscape

from caffe_batch import prototxt
from caffe_batch.layers import BUILT_IN
from tools.audit_search.draw import draw_case
from tools.fuzz.trials import ROOT, Trial
from tools.fuzz.words import NAMES, VALUES

_NUMBER = re.compile(r"(?<=: )-?[\d.]+(?:e-?\d+)?\b")
_TEXT = re.compile(r'"[^"\n]*"')
_WORD = re.compile(r"\b[A-Z_]{3,}\b|true|false")

#: Fields that any layer may have, some where they make no sense.
_FIELDS = (
    "axis: {v}", "loss_weight: {v}", "include {{ phase: TEST }}", "exclude {{ phase: TRAIN }}",
    "include {{ stage: {n} }}", "param {{ name: {n} lr_mult: {v} }}", "propagate_down: {v}",
    "bottom: {n}", "top: {n}", "name: {n}", "type: {n}", "phase: TEST",
    "blobs {{ shape {{ dim: {v} }} }}",
    "convolution_param {{ num_output: {v} kernel_size: {v} stride: {v} pad: {v} }}",
    "convolution_param {{ dilation: {v} group: {v} }}",
    "pooling_param {{ kernel_size: {v} stride: {v} pad: {v} }}",
    "inner_product_param {{ num_output: {v} axis: {v} }}",
    "batch_norm_param {{ moving_average_fraction: {v} eps: {v} }}",
    "transform_param {{ crop_size: {v} mean_file: {n} mean_value: {v} }}",
    "reshape_param {{ shape {{ dim: {v} dim: {v} }} axis: {v} num_axes: {v} }}",
    "slice_param {{ axis: {v} slice_point: {v} }}", "concat_param {{ axis: {v} }}",
    "lrn_param {{ local_size: {v} norm_region: WITHIN_CHANNEL }}",
    "tile_param {{ axis: {v} tiles: {v} }}", "dropout_param {{ dropout_ratio: {v} }}",
    "accuracy_param {{ top_k: {v} axis: {v} }}", "flatten_param {{ axis: {v} end_axis: {v} }}",
    "data_param {{ source: {n} batch_size: {v} prefetch: {v} }}",
    "image_data_param {{ source: {n} batch_size: {v} new_height: {v} }}",
    "hdf5_data_param {{ source: {n} batch_size: {v} }}",
    "dummy_data_param {{ shape {{ dim: {v} dim: {v} }} }}",
    "window_data_param {{ source: {n} batch_size: {v} crop_size: {v} }}",
    "memory_data_param {{ batch_size: {v} channels: {v} height: {v} width: {v} }}",
    "input_param {{ shape {{ dim: {v} }} }}", "recurrent_param {{ num_output: {v} }}",
    "python_param {{ module: {n} layer: {n} }}",
    "loss_param {{ normalization: BATCH_SIZE ignore_label: {v} }}",
    "spp_param {{ pyramid_height: {v} }}", "embed_param {{ num_output: {v} input_dim: {v} }}",
    "crop_param {{ axis: {v} offset: {v} }}", "reduction_param {{ axis: {v} coeff: {v} }}",
)  # fmt: skip
_SOLVER_FIELDS = (
    "base_lr: {v}", "lr_policy: {n}", "gamma: {v}", "power: {v}", "stepsize: {v}",
    "stepvalue: {v}", "max_iter: {v}", "test_iter: {v}", "test_interval: {v}", "iter_size: {v}",
    "momentum: {v}", "weight_decay: {v}", "snapshot: {v}", "snapshot_prefix: {n}", "display: {v}",
    "average_loss: {v}", "random_seed: {v}", "device_id: {v}", "solver_mode: {v}", "type: {n}",
    "regularization_type: {n}", "clip_gradients: {v}", "delta: {v}", "momentum2: {v}",
    "rms_decay: {v}", "test_net: {n}", "net: {n}", "train_state {{ level: {v} stage: {n} }}",
    "layer_wise_reduce: {v}", "warmup_steps: {v}",
)  # fmt: skip

#: Options of plan that change more than the batch.
_RESCALED = (
    ["--lr-scaling", "linear"], ["--lr-scaling", "sqrt"], ["--epochs", "3"],
    ["--train-records", "1000", "--epochs", "2.5"], ["--schedule", "grow"],
    ["--schedule", "grow", "--max-batch", "96"], ["--keep-tests"], ["--gpus", "2"],
    ["--shrink-tests"], ["--no-compensate", "loss_sum"], ["--test-every", "1"],
    ["--snapshot-every", "7"],
)  # fmt: skip

#: Files that a source may name.
_SOURCES = {
    "list.txt": b"a.png 0\nb.png 1\n",
    "a.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x07\0\0\0\x05\x08\x02\0\0\0",
    "rubbish": bytes(range(256)) * 3,
}
_NAMED = (*_SOURCES, "/dev/zero", "fifo", "folder", "missing", "/proc/self/mem")


def draw_net(seed: int) -> Trial:
    """The trial of a seed."""
    draw = random.Random(f"net {seed}")  # noqa: S311  # the same from the same seed
    net, solver = _base(draw, seed)
    for _ in range(draw.choice((0, 1, 1, 2, 3, 6))):
        net = _changed(draw, net, _FIELDS)
    for _ in range(draw.choice((0, 0, 1, 2))):
        solver = _changed(draw, solver, _SOLVER_FIELDS)
    content = net.encode(errors="surrogateescape")
    if draw.random() < 0.05:
        content = _binary(draw, net) or content
    if draw.random() < 0.04:
        content = _bytes_changed(draw, content)
    files = {"net.prototxt": content, "solver.prototxt": solver.encode(), **_SOURCES}
    return Trial(tuple(_calls(draw)), files, special={"fifo": "fifo", "folder": "folder"})


def _calls(draw: random.Random) -> list[tuple[str, ...]]:
    common: list[str] = []
    if draw.random() < 0.5:
        common += ["--input-shape", "data=3x7x11"]
    if draw.random() < 0.4:
        common += ["--allow-unknown"]
    if draw.random() < 0.3:
        common += ["--allow-unknown-fields"]
    target = ["net.prototxt"]
    if draw.random() < 0.5:
        target = draw.choice((["solver.prototxt"], ["net.prototxt", "--solver", "solver.prototxt"]))
    memory = ["memory", *target, *common]
    memory += draw.choice((["--json"], ["--json", "--mode", "cpu"], [], ["--by-type"]))
    memory += draw.choice(([], [], ["--batch-size", "3"]))
    plan = ["plan", *target, *common, "--gpu-memory", draw.choice(("5MiB", "300MiB", "8GiB"))]
    plan += ["--reserve", "0"] if draw.random() < 0.5 else []
    if draw.random() < 0.6:
        plan += ["--effective-batch", draw.choice(("12", "24", "31"))]
        plan += draw.choice((["--batch-size", "1"], ["--batch-size", "2"], ["--tolerance", "9%"]))
    plan += draw.choice(_RESCALED) if draw.random() < 0.3 else []
    plan += draw.choice((["--json"], ["--json"], ["--out", "job"], ["--json", "--mode", "cpu"], []))
    return [tuple(memory), tuple(plan)]


@cache
def _shipped() -> list[str]:
    paths = sorted(path for path in (ROOT / "prototxt").rglob("*.prototxt"))
    return [path.read_text() for path in paths if "solver" not in path.name]


def _base(draw: random.Random, seed: int) -> tuple[str, str]:
    if draw.random() < 0.3:
        solver = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 30\n'
        return draw.choice(_shipped()), solver + "max_iter: 90 test_iter: 3 test_interval: 10\n"
    case = draw_case(seed, str(Path("sources")))
    solver = re.sub(r"^(?:train_)?net:.*$", "", case.solver_text(), flags=re.MULTILINE)
    return case.net_text(), 'net: "net.prototxt"\n' + solver


def _changed(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """A text with one thing changed."""
    often, seldom = (_number, _number, _number, _name, _name, _field, _field), (_kind, _word)
    change = draw.choice((*often, *seldom, _blocks, _token))
    return change(draw, text, fields)


def _replaced(draw: random.Random, text: str, pattern: re.Pattern[str], by: str) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text
    place = draw.choice(found)
    return text[: place.start()] + by + text[place.end() :]


def _number(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    return _replaced(draw, text, _NUMBER, draw.choice(VALUES))


def _quoted(draw: random.Random) -> str:
    """A name in quotes; now and then as it is, which the syntax may not allow."""
    name = draw.choice((*NAMES, *_NAMED))
    if draw.random() < 0.2:
        return f'"{name}"'
    return f'"{CEscape(name.encode(), as_utf8=False)}"'


def _name(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """Another name; every time it occurs, or once."""
    found = sorted(set(_TEXT.findall(text)))
    if not found:
        return text
    old, new = draw.choice(found), _quoted(draw)
    return text.replace(old, new) if draw.random() < 0.6 else text.replace(old, new, 1)


def _kind(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """Another type, as a layer or a filler has one."""
    kinds = re.compile(r'(?<=type: )"\w+"')
    return _replaced(draw, text, kinds, f'"{draw.choice(sorted(BUILT_IN))}"')


def _word(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    return _replaced(draw, text, _WORD, draw.choice(VALUES))


def _field(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """One more field: in a layer, or at the end."""
    made = re.sub(r"\{[vn]\}", lambda m: draw.choice(VALUES) if m[0] == "{v}" else _quoted(draw),
                  draw.choice(fields)).replace("{{", "{").replace("}}", "}")  # fmt: skip
    starts = [match.end() for match in re.finditer(r"\blayers? *\{", text)]
    at = draw.choice(starts) if starts and draw.random() < 0.95 else len(text)
    return f"{text[:at]} {made} {text[at:]}"


def _blocks(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """A layer less, twice, elsewhere, or in the syntax of V1."""
    parts = re.split(r"(?=^layer \{)", text, flags=re.MULTILINE)
    if len(parts) < 3:
        return text
    one, other = draw.randrange(1, len(parts)), draw.randrange(1, len(parts))
    what = draw.randrange(5)
    if what == 0:
        del parts[one]
    elif what == 1:
        parts.insert(other, parts[one])
    elif what == 2:
        parts[one], parts[other] = parts[other], parts[one]
    elif what == 3:
        parts[one] = parts[one].replace("layer {", "layers {", 1)
    else:
        parts.insert(one, parts[one] * draw.choice((3, 200)))
    return "".join(parts)


def _token(draw: random.Random, text: str, fields: tuple[str, ...]) -> str:
    """A word less, twice, or another one."""
    words = re.findall(r"\s+|[{}:]|[^\s{}:]+", text)
    if not words:
        return text
    at = draw.randrange(len(words))
    words[at : at + 1] = draw.choice(([], [words[at]] * 2, [draw.choice(VALUES)], ["{ " * 150]))
    return "".join(words)


def _binary(draw: random.Random, text: str) -> bytes | None:
    """The net in binary form, as far as it can be read."""
    try:
        return prototxt.parse_net(text).SerializeToString()
    except ValueError:
        return None


def _bytes_changed(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20))):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.3 else changed)
