"""A layer that lets a worker wait for the test; see holding.py. For the runtime's own Python.

Its ``param_str`` is a folder. Where that has a file with the number of the present micro-batch,
NUMBER.reached is written beside it, and the layer waits until the file is gone or a signal asks the
worker to stop. The worker's own handler has that signal as well.
"""

import os
import signal
import time

import caffe

#: Longer than a worker is silent, so that its next report is due (solver_hooks.FLUSH_S).
LEAST_S = 0.3
#: The most that it waits: the test has died.
MOST_S = 900.0


STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Hold(caffe.Layer):
    passes = 0
    asked = False

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.passes += 1
        file = os.path.join(self.param_str, str(self.passes))
        if not os.path.exists(file):
            return
        began = time.monotonic()
        handlers = {number: signal.getsignal(number) for number in STOP}

        def stop(number, frame):
            self.asked = True
            handlers[number](number, frame)

        for number in STOP:
            signal.signal(number, stop)
        with open(file + ".reached", "w"):
            pass
        while time.monotonic() - began < LEAST_S or (os.path.exists(file) and not self.asked):
            if time.monotonic() - began > MOST_S:
                raise RuntimeError("nobody has released " + file)
            time.sleep(0.005)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def backward(self, top, propagate_down, bottom):
        pass
