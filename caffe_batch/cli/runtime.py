"""``caffe-batch runtime``: installs, lists, checks and removes pycaffe runtimes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import json_option
from caffe_batch.sizes import format_size

if TYPE_CHECKING:
    from caffe_batch.runtimes import Installed, InstallObserver, RuntimeInfo


@click.group()
def runtime() -> None:
    """Install, list, check or remove a pycaffe.

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
@click.option("--force", is_flag=True, help="Replace the runtime if it is already installed.")
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
    """List the installed runtimes."""
    from caffe_batch import runtimes

    there = runtimes.installed()
    if as_json:
        rows = [
            {"name": name, "folder": str(each.folder), **asdict(each.record)}
            for name, each in there.items()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for name, each in there.items():
        click.echo(f"{name}  {_line(each)}")
    if not there:
        click.echo("No runtime is installed. Run `caffe-batch runtime install`.", err=True)


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


@runtime.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the installed runtime NAME."""
    from caffe_batch import runtimes

    runtimes.remove(name)
    click.echo(f"Removed {name}.", err=True)


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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
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
