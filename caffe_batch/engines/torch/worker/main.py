"""The worker of the PyTorch engine, in any Python that can import torch.

    python main.py SETTINGS

SETTINGS is a JSON object; ``task`` is ``train``, ``noise``, ``verify``, ``memory``,
``inference`` or ``export``, and the module of that name describes the rest. For all of them it has

    events           number of the file descriptor for events
    device           "auto", "cpu" or "gpu"
    gpu              number of the GPU; null for the solver's device_id
    precision        "float32", "tf32" or "bf16"

Events are JSON lines; caffe_batch/engines/events.py describes them. The log has the form and the
words of Caffe's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path


def use_this_package() -> None:
    """Let ``caffe_batch`` be the one that this file is part of, and nothing else be found by it.

    The Python may be another than that of the command, with packages of its own. Modules of Python
    layers are looked for in the working directory, but there last, so that a random.py or numpy.py
    in it replaces no module.
    """
    here = Path(__file__).resolve()
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != here.parent]
    sys.path.append(os.getcwd())
    package = here.parents[3]
    spec = importlib.util.spec_from_file_location(
        "caffe_batch", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # it is there
    module = importlib.util.module_from_spec(spec)
    sys.modules["caffe_batch"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    use_this_package()
    from caffe_batch.engines.torch.worker.tasks import run

    sys.exit(run(json.loads(sys.argv[1])))
