"""The worker, measuring the gradients of every update however long that takes.

Runs under the runtime's own Python.
"""

import json
import os
import sys

TRAINING = os.path.join(os.path.dirname(__file__), "..", "..", "caffe_batch", "training")

sys.path[0] = os.path.abspath(TRAINING)
import micro_gradients  # noqa: E402
import worker  # noqa: E402

micro_gradients.SHARE = float("inf")
sys.exit(worker.main(json.loads(sys.argv[1])))
