"""The worker, measuring the gradients of every update however long that takes.

Runs under the runtime's own Python.
"""

import json
import os
import sys

CHECKOUT = os.path.join(os.path.dirname(__file__), "..", "..")
INSIDE = os.path.join(CHECKOUT, "caffe_batch", "engines", "caffe", "inside")

sys.path[0] = os.path.abspath(INSIDE)
import micro_gradients  # noqa: E402
import train  # noqa: E402

micro_gradients.SHARE = float("inf")
sys.exit(train.main(json.loads(sys.argv[1])))
