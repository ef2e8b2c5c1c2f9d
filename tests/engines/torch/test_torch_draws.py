"""Caffe's random numbers, against Caffe and the C library themselves."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caffe_batch.engines.torch.draws import CaffeRandom, LibcRandom

FILLED = """
import caffe, json
caffe.set_random_seed({seed})
net = caffe.Net("net.prototxt", caffe.TRAIN)
print(json.dumps([float(value) for value in net.params["ip"][0].data.ravel()]))
"""
NET = """
layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "in" top: "ip" inner_product_param {{
  num_output: 7 weight_filler {{ type: "uniform" min: 0 max: 1 }} }} }}
"""


@pytest.mark.parametrize("seed", [0, 1, 4_294_967_295])
def test_its_numbers_are_caffes(pycaffe: Callable[..., str], tmp_path: Path, seed: int) -> None:
    (tmp_path / "net.prototxt").write_text(NET.format())
    filled = json.loads(pycaffe(FILLED.format(seed=seed), cwd=tmp_path))
    raws = CaffeRandom(seed).raws(21).astype(np.float32) / np.float32(0xFFFF_FFFF)
    assert filled == (raws * np.nextafter(np.float32(1), np.float32(2))).tolist()


def test_a_seed_is_drawn_where_none_is_given() -> None:
    assert CaffeRandom(None).raws(4).tolist() != CaffeRandom(None).raws(4).tolist()


def test_its_state_can_be_kept() -> None:
    first = CaffeRandom(7)
    first.skip(1000)
    kept = first.state
    wanted = [first.raw(), *first.raws(700).tolist()]
    other = CaffeRandom(None)
    other.state = kept
    assert [other.raw(), *other.raws(700).tolist()] == wanted
    again = CaffeRandom(7)
    again.skip(1000)
    assert again.raw() == wanted[0]


def test_the_c_library_is_followed() -> None:
    libc = ctypes.CDLL("libc.so.6")
    libc.srand(1)
    draws = LibcRandom()
    assert [draws.raw() for _ in range(1000)] == [libc.rand() for _ in range(1000)]
