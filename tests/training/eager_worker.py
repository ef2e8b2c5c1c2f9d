"""The worker, measuring the gradients of every update however long that takes.

Runs under the runtime's own Python.
"""

import json
import os
import sys

if "task" in json.loads(sys.argv[1]):  # of the PyTorch engine
    import torch_workers

    sys.exit(torch_workers.eager(json.loads(sys.argv[1])))

sys.path[0] = os.environ["TEST_INSIDE"]  # conftest.py
import micro_gradients  # noqa: E402
import train  # noqa: E402

micro_gradients.SHARE = float("inf")
sys.exit(train.main(json.loads(sys.argv[1])))
