"""The worker, sent a signal after a number of micro-batches: SIGNALLED=PASSES,NAME.

Runs under the runtime's own Python.
"""

import json
import os
import signal
import sys

if "task" in json.loads(sys.argv[1]):  # of the PyTorch engine
    import torch_workers

    sys.exit(torch_workers.signalled(json.loads(sys.argv[1])))

sys.path[0] = os.environ["TEST_INSIDE"]  # conftest.py
import solver_hooks  # noqa: E402
import train  # noqa: E402

add_loss = solver_hooks.Training.add_loss
passes, name = os.environ.get("SIGNALLED", "0,").split(",")
left = int(passes)


def add_loss_and_signal(training):
    global left
    add_loss(training)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), getattr(signal, name))


solver_hooks.Training.add_loss = add_loss_and_signal
sys.exit(train.main(json.loads(sys.argv[1])))
