"""The schema module and the reader of prototxt run on every protobuf that the package allows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, warnings
warnings.simplefilter("error")
import google.protobuf
assert google.protobuf.__file__.startswith(sys.argv[1]), google.protobuf.__file__
assert google.protobuf.__version__.startswith(sys.argv[2]), google.protobuf.__version__
from caffe_batch import prototxt
from caffe_batch.errors import PrototxtError
from caffe_batch.schema.caffe_pb2 import NetParameter

text = '''name: "x"
layer {
  name: "c"
  param {
    lr_mult: 0.1
  }
  phase: TEST
  convolution_param {
    num_output: 3
    pad: 1
  }
}
'''
net = prototxt.parse_net(text)
assert prototxt.write(net) == text
assert NetParameter.FromString(net.SerializeToString()) == net
old = prototxt.parse_net("input: 'd' input_dim: [1, 2, 3, 4] layers { type: RELU blobs_lr: 2 }")
assert [layer.type for layer in old.layer] == ["Input", "ReLU"]
edited = prototxt.edit_net(text, [prototxt.Edit(0, ("convolution_param", "num_output"), 5)])
assert edited == text.replace("3", "5")
try:
    prototxt.parse_net("layer { clip_param { min: 1 } }")
except PrototxtError:
    print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("version", ["4.21", "4.25", "5.26", "5.29", "6.30", "6.33", "7.36"])
def test_a_version_of_protobuf_reads_and_writes(
    version: str, implementation: str, tmp_path: Path
) -> None:
    """Needs the package index."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--target", str(tmp_path), f"protobuf=={version}.*"], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), version],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "fine\n", done.stderr
