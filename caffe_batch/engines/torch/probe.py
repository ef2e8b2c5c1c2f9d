# mypy: ignore-errors
# (Python 2.7 has no annotations.)
"""Prints what this Python's torch is, as one line of JSON; run by inspection.py in a runtime.

Runs on any Python 3, so that it can also report one that is too old for the rest.
"""

import json
import os
import sys
import time
import warnings

# This script's folder must not hide modules of the same name.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]


def main():
    """Prints the line; fails as ``import torch`` fails, or that of what its worker needs."""
    facts = {"python_version": ".".join(str(part) for part in sys.version_info[:3])}
    if sys.version_info >= (3, 10):  # noqa: UP036 - it is a runtime's Python that runs this
        start = time.time()
        import torch

        facts["import_s"] = time.time() - start
        import google.protobuf
        import lmdb  # noqa: F401  # as the worker does
        import numpy

        built = torch.version.cuda or torch.version.hip
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            count = torch.cuda.device_count() if built and torch.cuda.is_available() else 0
        facts.update(
            torch_version=torch.__version__,
            torch_path=torch.__file__,
            numpy_version=numpy.__version__,
            protobuf_version=google.protobuf.__version__,
            built_for_gpus=bool(built),
            nccl=bool(built) and torch.distributed.is_available(),
            kernels=torch.cuda.get_arch_list() if built else [],
            gpus=[
                [torch.cuda.get_device_name(gpu), list(torch.cuda.get_device_capability(gpu))]
                for gpu in range(count)
            ],
            gpu_warnings="; ".join(str(each.message) for each in said),
        )
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
