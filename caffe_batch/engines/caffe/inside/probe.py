# mypy: ignore-errors
# (Python 2.7 has no annotations, and caffe has no types.)
"""Prints what this Python's caffe is, as one line of JSON; run by inspection.py in a runtime.

Runs on Python 2.7 and 3, with nothing but the standard library and caffe, so that it can also
report a Python that is too old for the rest.
"""

import json
import os
import sys
import tempfile
import time

# A message is found by the beginning of its line, which the user may have switched off.
os.environ["GLOG_log_prefix"] = "1"  # noqa: SIM112  # as glog spells it

# This script's folder must not hide modules of the same name from caffe.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]


def gpu_message(caffe):
    """What Caffe says when asked to use GPU 0, or None if that works.

    It reports an error by aborting the process; hence the child.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            try:
                import resource

                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os.dup2(said.fileno(), 2)
                caffe.set_mode_gpu()
                caffe.set_device(0)
                os._exit(0)
            finally:  # in case it raises
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        if os.waitpid(child, 0)[1] == 0:
            return None
        said.seek(0)
        return said.read().decode("utf-8", "replace")


def main():
    """Prints the line; fails as ``import caffe`` fails."""
    facts = {"python_version": ".".join(str(part) for part in sys.version_info[:3])}
    if sys.version_info >= (3, 6):  # noqa: UP036 - it is a runtime's Python that runs this
        start = time.time()
        import caffe

        facts["import_s"] = time.time() - start
        import numpy

        facts.update(
            caffe_version=getattr(caffe, "__version__", "unknown"),
            caffe_path=getattr(caffe, "__file__", None),
            numpy_version=numpy.__version__,
            layer_types=sorted(caffe.layer_type_list()),
            nccl=bool(getattr(caffe, "has_nccl", bool)()),
            gpu_message=gpu_message(caffe),
        )
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    sys.stdout.flush()


main()
