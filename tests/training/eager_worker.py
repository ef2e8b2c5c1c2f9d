"""The worker, measuring the gradients of every update however long that takes.

Runs under the runtime's own Python.
"""

import json
import os
import sys

sys.path[0] = os.environ["TEST_INSIDE"]  # conftest.py
import micro_gradients  # noqa: E402
import train  # noqa: E402

micro_gradients.SHARE = float("inf")
sys.exit(train.main(json.loads(sys.argv[1])))
