"""Edits by layer, in files of every syntax."""

from __future__ import annotations

from typing import Any

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import Edit, Path, edit_net
from caffe_batch.schema.caffe_pb2 import NetParameter

V0 = """\
# a net of 2013
input: "extra" input_dim: [10, 3, 8, 8]
layers {
  layer { name: "data" type: "data" source: "db" batchsize: 64 cropsize: 227 }
  top: "data"
}
layers { layer { name: "images" type: "images" batchsize: 32 } top: "images" }
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "pad" }
layers {
  layer {
    name: "conv"
    type: "conv"  # with padding
    num_output: 20
    kernelsize: 5
    blobs_lr: 1.
    blobs_lr: 2.
  }
  bottom: "pad"
  top: "conv"
}
"""

V1 = """\
input: "extra"
input_shape { dim: 10 dim: 3 }
layers {
  name: "data"
  type: DATA
  data_param { source: "db" batch_size: 64 crop_size: 227 }
  transform_param { scale: 0.1 }
}
layers { name: "hdf5" type: HDF5_DATA hdf5_data_param { batch_size: 8 } }
layers { name: "dummy" type: DUMMY_DATA dummy_data_param { num: 9 channels: 1 height: 1 width: 1 } }
layers { name: "conv" type: CONVOLUTION param: "w" blobs_lr: 1 weight_decay: 1 weight_decay: 0 }
layers { name: "loss" type: SOFTMAX_LOSS }
"""

NOW = """\
input: "extra"
input_dim: 10
input_dim: 3
input_dim: 8
input_dim: 8
layer { name: "data" type: "Data" data_param { batch_size: 64 } }
layer { name: "bn" type: "BatchNorm" }
"""

DIM: Path = ("input_param", "shape", 0, "dim", 0)


def index_of(net: NetParameter, name: str) -> int:
    return [layer.name for layer in net.layer].index(name)


@pytest.mark.parametrize(
    ("text", "layer", "path", "value", "old", "new"),
    [
        (V0, "input", DIM, 5, "[10, 3, 8, 8]", "[5, 3, 8, 8]"),
        (V0, "input", (*DIM[:-1], 3), 9, "[10, 3, 8, 8]", "[10, 3, 8, 9]"),
        (V0, "input", ("top", 0), "more", '"extra"', '"more"'),
        (V0, "data", ("data_param", "batch_size"), 16, "batchsize: 64", "batchsize: 16"),
        (V0, "data", ("transform_param", "crop_size"), 224, "227", "224"),
        (V0, "data", ("data_param", "rand_skip"), 5, "227 }", "227 rand_skip: 5 }"),
        (V0, "images", ("top", 0), "i", 'top: "images"', 'top: "i"'),
        (V0, "images", ("image_data_param", "batch_size"), 1, "batchsize: 32", "batchsize: 1"),
        (V0, "images", ("image_data_param", "shuffle"), True, "32 }", "32 shuffle_images: true }"),
        (V0, "conv", ("name",), "c", '"conv"\n    type', '"c"\n    type'),
        (V0, "conv", ("convolution_param", "num_output"), 8, "num_output: 20", "num_output: 8"),
        (V0, "conv", ("convolution_param", "kernel_size", 0), 3, "kernelsize: 5", "kernelsize: 3"),
        (V0, "conv", ("param", 1, "lr_mult"), 0, "blobs_lr: 2.", "blobs_lr: 0"),
        (
            V0,
            "conv",
            ("convolution_param", "weight_filler", "std"),
            0.5,
            "blobs_lr: 2.\n",
            "blobs_lr: 2.\n    weight_filler {\n      std: 0.5\n    }\n",
        ),
        (
            V0,
            None,
            ("force_backward",),
            True,
            'top: "conv"\n}\n',
            'top: "conv"\n}\nforce_backward: true\n',
        ),
        (V1, "input", DIM, 5, "dim: 10", "dim: 5"),
        (V1, "data", ("data_param", "batch_size"), 16, "batch_size: 64", "batch_size: 16"),
        (V1, "data", ("transform_param", "crop_size"), 224, "227", "224"),
        (V1, "data", ("transform_param", "scale"), 1, "scale: 0.1", "scale: 1"),
        (V1, "data", ("transform_param", "mirror"), True, "0.1 }", "0.1 mirror: true }"),
        (V1, "hdf5", ("hdf5_data_param", "batch_size"), 1, "batch_size: 8", "batch_size: 1"),
        (V1, "dummy", ("dummy_data_param", "num", 0), 1, "num: 9", "num: 1"),
        (V1, "conv", ("param", 0, "name"), "v", 'param: "w"', 'param: "v"'),
        (V1, "conv", ("param", 0, "lr_mult"), 2, "blobs_lr: 1", "blobs_lr: 2"),
        (V1, "conv", ("param", 1, "lr_mult"), 2, "blobs_lr: 1", "blobs_lr: 1 blobs_lr: 2"),
        (V1, "conv", ("param", 1, "decay_mult"), 3, "weight_decay: 0", "weight_decay: 3"),
        (
            V1,
            "conv",
            ("param", 0, "share_mode"),
            "PERMISSIVE",
            "weight_decay: 0 }",
            "weight_decay: 0 blob_share_mode: PERMISSIVE }",
        ),
        (V1, "loss", ("loss_weight", 0), 0.25, "LOSS }", "LOSS loss_weight: 0.25 }"),
        (NOW, "input", DIM, 5, "input_dim: 10", "input_dim: 5"),
        (NOW, "data", ("data_param", "batch_size"), 16, "batch_size: 64", "batch_size: 16"),
        (
            NOW,
            "bn",
            ("batch_norm_param", "moving_average_fraction"),
            0.9997498,
            '"BatchNorm" }',
            '"BatchNorm" batch_norm_param { moving_average_fraction: 0.9997498 } }',
        ),
    ],
)
def test_an_edit_finds_its_place_in_the_syntax_of_the_file(
    text: str, layer: str | None, path: Path, value: Any, old: str, new: str
) -> None:
    assert text.count(old) == 1
    where = None if layer is None else index_of(prototxt.parse_net(text), layer)
    assert edit_net(text, [Edit(where, path, value)]) == text.replace(old, new)


def test_many_edits_at_once() -> None:
    net = prototxt.parse_net(NOW)
    data, norm = index_of(net, "data"), index_of(net, "bn")
    edits = [
        Edit(0, DIM, 2),
        Edit(data, ("data_param", "batch_size"), 7),
        Edit(norm, ("batch_norm_param", "eps"), 0.1),
        Edit(norm, ("batch_norm_param", "use_global_stats"), False),
        Edit(data, ("data_param", "batch_size"), 8),
        Edit(data, ("include", 0, "phase"), "TRAIN"),
    ]
    after = prototxt.parse_net(edit_net(NOW, edits))
    net.layer[0].input_param.shape[0].dim[0] = 2
    net.layer[data].data_param.batch_size = 8
    net.layer[data].include.add(phase="TRAIN")
    net.layer[norm].batch_norm_param.eps = 0.1
    net.layer[norm].batch_norm_param.use_global_stats = False
    assert after == net


def test_no_edits_change_nothing() -> None:
    assert edit_net(V0, []) == V0


@pytest.mark.parametrize(
    ("text", "layer", "path", "value"),
    [
        (V0, "conv", ("convolution_param", "dilation", 0), 2),
        (V0, "conv", ("convolution_param", "kernel_size", 1), 3),
        (V0, "conv", ("convolution_param", "pad", 0), 1),  # the padding layer decides
        (V0, "conv", ("loss_weight", 0), 1),
        (V0, "conv", ("include", 0, "phase"), "TRAIN"),
        (V0, "conv", ("type",), "ReLU"),
        (V0, "data", ("image_data_param", "batch_size"), 1),
        (V0, "input", ("phase",), "TRAIN"),
        (V0, "input", (*DIM[:-1], 4), 1),
        (V1, "data", ("type",), "ImageData"),
        (V1, "data", ("batch_norm_param", "eps"), 0.1),
        (V1, "data", ("phase",), "TRAIN"),
        (V1, "data", ("layer", "name"), "x"),
        (V1, "conv", ("blobs_lr", 0), 5),
        (V1, "conv", ("param", 0), 5),
        (V1, "input", ("name",), "x"),
    ],
)
def test_what_old_syntax_has_no_place_for_is_an_error(
    text: str, layer: str, path: Path, value: Any
) -> None:
    where = index_of(prototxt.parse_net(text), layer)
    message = f"^net.prototxt: .* of layer '{layer}' has no place in the old syntax of this file"
    with pytest.raises(PrototxtError, match=message) as caught:
        edit_net(text, [Edit(where, path, value)], path="net.prototxt")
    assert "upgrade_net_proto_text" in str(caught.value.hint)


def test_a_layer_beyond_the_last_is_an_error() -> None:
    with pytest.raises(PrototxtError, match="there is no layer 3: the net has 3"):
        edit_net(NOW, [Edit(3, ("name",), "x")])
    with pytest.raises(PrototxtError, match="there is no layer -1"):
        edit_net(NOW, [Edit(-1, ("name",), "x")])


def test_a_wrong_field_gets_a_hint() -> None:
    with pytest.raises(PrototxtError, match="DataParameter has no field 'batchsize'") as caught:
        edit_net(NOW, [Edit(1, ("data_param", "batchsize"), 1)])
    assert caught.value.hint == "Did you mean batch_size?"


def test_a_param_that_names_have_but_rates_lack_must_be_added_in_order() -> None:
    with pytest.raises(PrototxtError, match="blobs_lr has 1 entries"):
        edit_net(V1, [Edit(4, ("param", 2, "lr_mult"), 1)])


def test_fields_of_a_fork_do_not_count() -> None:
    text = 'fork { }\nlayer { name: "a" fork: 1 }\n'
    assert edit_net(text, [Edit(0, ("name",), "b")]) == text.replace('"a"', '"b"')
