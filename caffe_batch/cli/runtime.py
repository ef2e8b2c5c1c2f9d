"""``caffe-batch runtime``: installs, lists, checks, uses and removes pycaffe runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from caffe_batch.cli.options import Command, json_option
from caffe_batch.sizes import format_size

if TYPE_CHECKING:
    from caffe_batch.runtimes import Installed, InstallObserver, Known, RuntimeInfo


@click.group()
def runtime() -> None:
    """Install, list, check, use or remove a pycaffe.

    A runtime is a Python that can import caffe; training runs on it. Without --runtime or
    CAFFE_BATCH_RUNTIME, commands use this Python if it has caffe, else an installed runtime.
    """


@runtime.command()
@click.option("--name", metavar="NAME", help="Name of the runtime.  [default: debian-11]")
@click.option(
    "--mirror",
    metavar="URL",
    envvar="CAFFE_BATCH_MIRROR",
    show_envvar=True,
    help="A Debian mirror; needed if this machine's apt has no mirror with Debian 11.",
)
@click.option("--force", is_flag=True, help="Replace the runtime if it is installed already.")
def install(name: str | None, mirror: str | None, force: bool) -> None:
    """Install Caffe 1.0 for the CPU, without root.

    apt downloads Debian 11's pycaffe and everything it needs (about 160 MB) into your data
    directory, where it takes about 700 MB; nothing else on this machine is changed. The data
    directory is in your home; CAFFE_BATCH_HOME names another one. Don't use --force during a
    training.
    """
    from caffe_batch import runtimes

    name = name or runtimes.DEFAULT_NAME
    if not force and name in (there := runtimes.installed()):
        click.echo(f"{name} is already installed: {_line(there[name])}", err=True)
        return
    with _observer() as observer:
        made = runtimes.install(name, mirror=mirror, force=force, observer=observer)
    click.echo(f"Installed {name}: {_line(made)}", err=True)


@runtime.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the runtimes that commands choose from, and say which one they use.

    These are the one that CAFFE_BATCH_RUNTIME names, the Python of caffe-batch if it has caffe (as
    in the container image for GPUs), and the installed ones.
    """
    from caffe_batch import runtimes

    there = runtimes.known()
    if as_json:
        click.echo(json.dumps([_row(each) for each in there], indent=2))
        return
    for each in there:
        click.echo(f"{each.name}  {_known_line(each)}")
    if not there:
        click.echo("No runtime was found. Run `caffe-batch runtime install`.", err=True)
    elif not any(each.used for each in there):
        click.echo("None of them is used: see the reasons.", err=True)


@runtime.command()
@click.argument("spec", metavar="[RUNTIME]", required=False)
@json_option
def check(spec: str | None, as_json: bool) -> None:
    """Run a runtime and show what it is.

    RUNTIME is the name of an installed runtime or the path of a Python; the default is the runtime
    that training would use.
    """
    from caffe_batch import runtimes

    found = runtimes.find(spec)
    info = runtimes.inspect(found)
    if as_json:
        click.echo(json.dumps({"name": found.name, **asdict(info)}, indent=2))
        return
    rows = {
        "Runtime": found.name,
        "Caffe": f"{info.engine_version} ({info.module_path})",
        "Python": f"{info.python_version}, numpy {info.numpy_version}",
        "GPU": _gpu(info),
        "Multi-GPU": "yes (NCCL)" if info.nccl else "no",
        "Layer types": f"{len(info.layer_types)} (--json lists them)",
        "Import": f"{info.import_s:.1f} s",
    }
    for title, text in rows.items():
        click.echo(f"{title + ':':<13}{text}")


@runtime.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    examples=[
        ("caffe-batch runtime run script.py --option", "A script that imports caffe"),
        (
            "caffe-batch runtime run -- caffe time --model=net.prototxt",
            "One of Caffe's programs, here the one that times each layer",
        ),
        ("caffe-batch runtime run", "The interactive Python"),
    ],
)
@click.option(
    "--runtime",
    "spec",
    metavar="RUNTIME",
    help="Name of an installed runtime, or a Python.  [default: the one that training would use]",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[--] [ARGS]...")
def run(spec: str | None, args: tuple[str, ...]) -> None:
    """Run the Python of a runtime, or one of Caffe's programs.

    If ARGS begin with the name of one of the runtime's programs (caffe, convert_imageset,
    compute_image_mean, ...), that program gets the rest; otherwise the runtime's Python gets all
    of them. It replaces caffe-batch: the exit code is the program's.

    `caffe.io.load_image` of pycaffe works here with any version of scikit-image, and without it.
    """
    from caffe_batch import runtimes

    command, environment = runtimes.command_line(runtimes.find(spec), args)
    os.execve(command[0], command, environment)  # noqa: S606  # argv, as the user gave it


@runtime.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the installed runtime NAME."""
    from caffe_batch import runtimes

    runtimes.remove(name)
    click.echo(f"Removed {name}.", err=True)


def _row(each: Known) -> dict[str, Any]:
    """A runtime for other programs."""
    row = {"name": each.name, "origin": each.origin, "used": each.used, "problem": each.problem}
    if each.installed:
        return {**row, "folder": str(each.installed.folder), **asdict(each.installed.record)}
    return {**row, **(asdict(each.info) if each.info else {})}


def _known_line(each: Known) -> str:
    """What a runtime is, where it comes from, and whether it is used."""
    if each.installed:
        what = _line(each.installed)
    elif each.info:
        kind = "GPU" if each.info.gpu else "CPU"
        what = f"Caffe {each.info.engine_version} ({kind}), Python {each.info.python_version}"
    else:
        what = ""
    problem = each.problem and f"can't be used: {each.problem}"
    used = "used unless another one is named" if each.used else ""
    return "; ".join(filter(None, (what, each.origin, problem, used)))


def _gpu(info: RuntimeInfo) -> str:
    if not info.gpu:
        return "no, this build is for the CPU only"
    return "yes" if info.gpu_problem is None else f"built for it, but: {info.gpu_problem}"


def _line(each: Installed) -> str:
    record = each.record
    return (
        f"Caffe {record.caffe_version} ({'GPU' if record.gpu else 'CPU'}),"
        f" Python {record.python_version}, {format_size(record.size_bytes)}, {each.folder}"
    )


@contextmanager
def _observer() -> Iterator[InstallObserver]:
    """Shows an install on stderr: bars on a terminal, else one line for each step."""
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

    from caffe_batch.reporting.console import PlainConsole

    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        shown: set[str] = set()

        def show_line(step: str, share: float) -> None:
            if step not in shown:
                shown.add(step)
                click.echo(f"{step} ...", err=True)

        yield show_line
        return
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console) as bars:

        def move_bar(step: str, share: float) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=1.0)
            bars.update(tasks[step], completed=share)

        yield move_bar
