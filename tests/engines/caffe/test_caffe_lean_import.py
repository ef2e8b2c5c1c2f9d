"""pycaffe imported without SciPy and scikit-image: the same functions, which import them late."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from caffe_batch.engines.caffe import INSIDE
from caffe_batch.runtimes import Runtime

RESIZE = """
import sys, json
import numpy as np
images = [np.arange(24 * k, dtype=np.float32).reshape(4, 6, k) / 99 for k in (2, 3)]
print(json.dumps([caffe.io.resize_image(image, (3, 5)).tolist() for image in images]))
"""

LEAN = """
import sys
sys.path[0] = sys.argv[1]
from lean_import import import_caffe
caffe = import_caffe()
heavy = ("scipy", "skimage", "pkg_resources")
assert not [name for name in sys.modules if name.partition(".")[0] in heavy]
"""


def test_what_was_put_off_works(runtime: Runtime, pycaffe: Callable[..., str]) -> None:
    """Two channels are resized by SciPy, three by scikit-image."""
    done = subprocess.run(
        runtime.command(["-c", LEAN + RESIZE, str(INSIDE)]),
        env=runtime.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(pycaffe("import caffe" + RESIZE))
