"""The worker, held before an update: HELD=UPDATES,FILE; see WorkerHold in tests/holding.py.

Runs under the runtime's own Python.
"""

import json
import os
import sys
import time

if "task" in json.loads(sys.argv[1]):  # of the PyTorch engine
    import torch_workers

    sys.exit(torch_workers.held(json.loads(sys.argv[1])))

sys.path[0] = os.environ["TEST_INSIDE"]  # conftest.py
import solver_hooks  # noqa: E402
import train  # noqa: E402

before_update = solver_hooks.Training.before_update
updates, file = os.environ["HELD"].split(",", 1)


def wait_before_update(training):
    before_update(training)
    if training.update == int(updates) and os.path.exists(file):
        with open(file + ".reached", "w"):
            pass
        while os.path.exists(file):
            time.sleep(0.005)


solver_hooks.Training.before_update = wait_before_update
sys.exit(train.main(json.loads(sys.argv[1])))
