"""Finds the runtime to use."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch import engines
from caffe_batch.engines.base import Engine, RuntimeInfo
from caffe_batch.errors import Option, RuntimeMissingError, did_you_mean
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.container import container
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.runtimes.store import Installed, installed, runtimes_directory

#: The environment variable that says which runtime to use where no option does.
VARIABLE = "CAFFE_BATCH_RUNTIME"


def find(spec: str | None = None, engine: Engine | None = None) -> Runtime:
    """The runtime to use.

    Args:
        spec: The path of an interpreter, the name of an installed runtime, the name of an
            interpreter on the PATH, or a container image: docker[:IMAGE], podman[:IMAGE].
            None: what CAFFE_BATCH_RUNTIME says, else this interpreter if it can import the engine,
            else an installed runtime. (Variable and installed runtimes are for Caffe alone.)
        engine: What it is to run; the default engine if None.

    Returns:
        A runtime that can import the engine. An installed one could when it was installed; the
        others are tried here, which takes seconds.

    Raises:
        RuntimeMissingError: There is none, or it can't import the engine.
    """
    wanted = engine or engines.find()
    spec = spec or (os.environ.get(VARIABLE) if wanted.installable else None)
    if spec:
        return named(spec, engine)
    module = wanted.module
    excuse = f"this Python has no module {module}"
    if importlib.util.find_spec(module):
        this = Interpreter(sys.executable)
        try:
            inspect(this, engine)
        except RuntimeMissingError as error:
            excuse = error.message
        else:
            return this
    for each in installed().values() if wanted.installable else ():
        if each.record.machine == platform.machine():
            return each.runtime
    other: list[str | Option] = [
        f"{wanted.remedy}, or name a Python that can import {module} with ",
        Option("runtime", "/path/to/python"),
    ]
    if not wanted.installable:
        raise RuntimeMissingError(f"no {wanted.title} was found: {excuse}", hint=[*other, "."])
    raise RuntimeMissingError(
        f"no {wanted.title} was found: {excuse}, and no runtime is installed in "
        f"{runtimes_directory()}",
        hint=[*other, f" or in {VARIABLE}."],
    )


@dataclass(frozen=True)
class Known:
    """A runtime that can be used without naming its path, or that should be one.

    Attributes:
        name: As ``--runtime`` takes it.
        origin: Where it comes from, in words.
        info: What it says about itself; None for an installed one, whose record says it.
        installed: What is installed; None for others.
        problem: Why it can't be used; None if it can.
        used: Whether it is the one that is used where none is named.
    """

    name: str
    origin: str
    info: RuntimeInfo | None = None
    installed: Installed | None = None
    problem: str | None = None
    used: bool = False


def known(engine: Engine | None = None) -> tuple[Known, ...]:
    """The runtimes that :func:`find` chooses from, in its order; the first usable one is used.

    If the environment names one, that one is used or none.

    Args:
        engine: What they are to run; the default engine if None.
    """
    wanted, variable = engine or engines.find(), os.environ.get(VARIABLE)
    found: list[Known] = []
    there = installed().values() if wanted.installable else ()
    if variable and variable not in {each.name for each in there}:
        found.append(
            _tried(variable, f"named by {VARIABLE}", lambda: named(variable, engine), engine)
        )
    if importlib.util.find_spec(wanted.module):
        this = Interpreter(sys.executable)
        found.append(_tried(this.name, "the Python of caffe-batch", lambda: this, engine))
    for each in there:
        here = each.record.machine == platform.machine()
        problem = None if here else f"it is for {each.record.machine}"
        found.append(Known(each.name, "installed", installed=each, problem=problem))
    used = next(
        (each for each in found if not each.problem and (not variable or each.name == variable)),
        None,
    )
    return tuple(replace(each, used=each is used) for each in found)


def _tried(name: str, origin: str, runtime: Callable[[], Runtime], engine: Engine | None) -> Known:
    try:
        return Known(name, origin, info=inspect(runtime(), engine))
    except RuntimeMissingError as error:
        return Known(name, origin, problem=error.message)


def named(spec: str, engine: Engine | None = None) -> Runtime:
    """The runtime of that name or path.

    Raises:
        RuntimeMissingError: There is none, or it can't import the engine.
    """
    image = container(spec)
    if image:
        inspect(image, engine)
        return image
    if os.sep not in spec:
        there = installed()
        if spec in there:
            if engine is not None and not engine.installable:
                inspect(there[spec].runtime, engine)  # it was installed for another one
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
        path = str(Path(os.path.expanduser(spec)).absolute())
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise RuntimeMissingError(
                f"the runtime {path} is not an executable file",
                hint="Give the Python interpreter itself, for example /opt/env/bin/python.",
            )
    runtime = Interpreter(path)
    inspect(runtime, engine)
    return runtime
