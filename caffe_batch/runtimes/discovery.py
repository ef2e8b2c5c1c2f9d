"""Finds the runtime to use."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from caffe_batch.errors import RuntimeMissingError, did_you_mean
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.container import container
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.runtimes.store import installed, runtimes_directory

#: The environment variable that says which runtime to use where no option does.
VARIABLE = "CAFFE_BATCH_RUNTIME"


def find(spec: str | None = None) -> Runtime:
    """The runtime to use.

    Args:
        spec: The path of an interpreter, the name of an installed runtime, the name of an
            interpreter on the PATH, or a container image: docker[:IMAGE], podman[:IMAGE].
            None: what CAFFE_BATCH_RUNTIME says, else this interpreter if it can import caffe,
            else an installed runtime.

    Returns:
        A runtime that can import caffe. An installed one could when it was installed; the others
        are tried here, which takes seconds.

    Raises:
        RuntimeMissingError: There is none, or it can't import caffe.
    """
    spec = spec or os.environ.get(VARIABLE)
    if spec:
        return named(spec)
    excuse = "this Python has no module caffe"
    if importlib.util.find_spec("caffe"):
        this = Interpreter(sys.executable)
        try:
            inspect(this)
        except RuntimeMissingError as error:
            excuse = error.message
        else:
            return this
    for each in installed().values():
        if each.record.machine == platform.machine():
            return each.runtime
    raise RuntimeMissingError(
        f"no Caffe was found: {excuse}, and no runtime is installed in {runtimes_directory()}",
        hint="Run `caffe-batch runtime install` (once; 160 MB to download), or give a Python that"
        f" can import caffe with --runtime /path/to/python or in {VARIABLE}.",
    )


def named(spec: str) -> Runtime:
    """The runtime of that name or path.

    Raises:
        RuntimeMissingError: There is none, or it can't import caffe.
    """
    image = container(spec)
    if image:
        inspect(image)
        return image
    if os.sep not in spec:
        there = installed()
        if spec in there:
            return there[spec].runtime
        path = shutil.which(spec)
        if path is None:
            known = f"Installed: {', '.join(there)}." if there else "No runtime is installed."
            raise RuntimeMissingError(
                f"{spec!r} is neither an installed runtime nor a program on the PATH",
                hint=did_you_mean(spec, [*there]) or known,
            )
    else:
        # Not resolved: the interpreter of a virtual environment is a link.
        path = str(Path(spec).expanduser().absolute())
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise RuntimeMissingError(
                f"the runtime {path} is not an executable file",
                hint="Give the Python interpreter itself, for example /opt/env/bin/python.",
            )
    runtime = Interpreter(path)
    inspect(runtime)
    return runtime
