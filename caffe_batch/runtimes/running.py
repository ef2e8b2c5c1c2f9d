"""Runs what a user wants to run with a runtime: its Python, or one of the programs beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from caffe_batch import engines
from caffe_batch.errors import InputError
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.container import Container

#: The programs that users ask for; runtimes that were installed without Caffe's package lack them.
PROGRAMS = ("caffe", "compute_image_mean", "convert_imageset", "extract_features",
            "upgrade_net_proto_binary", "upgrade_net_proto_text",
            "upgrade_solver_proto_text")  # fmt: skip


def command_line(runtime: Runtime, args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What starts a program of a runtime, or its Python: the argv and the environment.

    Args:
        runtime: One of this machine, no container.
        args: Begins with the name of one of its programs, or is all for its Python. A name in
            the current directory is written ./NAME where a program is called the same.

    Raises:
        InputError: The first argument is neither an option of Python's nor a program nor a file;
            or the runtime is a container.
    """
    if isinstance(runtime, Container):
        raise InputError(
            f"{runtime.name}: a container is started by its own program",
            hint=f"For example `{runtime.program} run --rm -it --entrypoint=sh "
            f"{runtime.image}`; caffe-python is the Python that can import caffe.",
        )
    first = args[0] if args else "-"
    if os.sep not in first and not first.startswith("-"):
        if (tool := runtime.tool(first)) is not None:
            return [*tool, *args[1:]], runtime.environment()
        if first in PROGRAMS:
            raise InputError(
                f"the runtime {runtime.name} has no program {first}",
                hint="It was installed without Caffe's programs; "
                "`caffe-batch runtime install --force` replaces it by one that has them.",
            )
    if not first.startswith("-") and not Path(first).exists():
        raise InputError(
            f"{first!r} is neither a program of the runtime {runtime.name} nor a file",
            hint=f"Caffe's programs are {', '.join(PROGRAMS)}. Without arguments the interactive "
            "Python starts.",
        )
    return runtime.command(args), _mended(runtime.environment())


def _mended(environment: dict[str, str]) -> dict[str, str]:
    """The environment in which Caffe's image loading works."""
    shim = engines.find().shim
    if shim is None:
        return environment
    paths = filter(None, (str(shim), environment.get("PYTHONPATH")))
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}
