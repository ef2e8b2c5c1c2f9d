"""``caffe-batch doctor``: what this machine has, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import json_option
from caffe_batch.sizes import format_size

if TYPE_CHECKING:
    from caffe_batch.runtimes.doctor import Examination


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine has, and what is missing.

    Examines the runtime (by running it), GPUs, disk space and optional Python packages. On a GPU
    that Caffe can use, it measures the memory that the CUDA context takes and stores it as the
    default of --reserve. It changes nothing else.
    """
    from caffe_batch.cli.configuration import paths
    from caffe_batch.runtimes.doctor import examine, missing_items

    settings = paths()
    found = examine()
    missing = missing_items(found)
    if as_json:
        rows = [asdict(item) for item in missing]
        click.echo(
            json.dumps(
                {
                    **asdict(found),
                    "configuration": [str(path) for path in settings],
                    "missing": rows,
                },
                indent=2,
            )
        )
        return
    for title, text in _rows(found):
        click.echo(f"{title + ':' if title else '':<14}{text}")
    for line in settings_lines(settings):
        click.echo(line)
    click.echo("\nMissing:" if missing else "\nNothing is missing.")
    for item in missing:
        click.echo(f"- {item.what}\n    needed for: {item.needed_for}\n    {item.remedy}")


def settings_lines(files: Sequence[Path]) -> list[str]:
    """Where caffe-batch.toml may be."""
    return [
        f"{'' if number else 'Settings:':<14}{path}{'' if path.exists() else ' (not there)'}"
        for number, path in enumerate(files)
    ]


def _rows(found: Examination) -> Iterator[tuple[str, str]]:
    """The title and text of each line; a line without a title continues the previous one."""
    yield "System", found.system
    yield "Python", f"{found.python}, protobuf {found.protobuf}"
    yield "Data", f"{found.data_directory} ({format_size(found.free_bytes)} free)"
    info = found.runtime_info
    if info is None:
        yield "Runtime", "none"
    else:
        kind = "GPU" if info.gpu else "CPU only"
        several = ", NCCL" if info.nccl else ""
        yield "Runtime", f"{found.runtime}: Caffe {info.engine_version} ({kind}{several})"
        yield "", f"Python {info.python_version}, imports caffe in {info.import_s:.1f} s"
    others = [name for name in found.installed if name != found.runtime]
    if others:
        yield "", f"also installed: {', '.join(others)}"
    for engine, other in found.others.items():
        if isinstance(other, str):
            yield engine, "none"
            continue
        kind = "GPU" if other.gpu else "CPU only"
        yield engine, f"{other.engine_version} ({kind}), imported in {other.import_s:.1f} s"
        for device in other.devices:
            yield "", device
    if not found.gpus.devices:
        yield "GPU", f"none found ({found.gpus.problem or f'according to {found.gpus.source}'})"
    for number, gpu in enumerate(found.gpus.devices):
        memory = "memory unknown"
        if gpu.total_bytes is not None and gpu.free_bytes is not None:
            memory = f"{format_size(gpu.total_bytes)}, {format_size(gpu.free_bytes)} free"
        yield f"GPU {number}", f"{gpu.name}, {memory}"
    if found.gpus.driver:
        yield "Driver", f"{found.gpus.driver} (according to {found.gpus.source})"
    how = "measured on GPU 0" if found.reserve.measured else "assumed"
    why = f"; could not be measured: {found.reserve.problem}" if found.reserve.problem else ""
    yield "Reserve", f"{format_size(found.reserve.bytes)} for the CUDA context ({how}{why})"
    present = [f"{extra.package} {extra.version}" for extra in found.extras if extra.version]
    yield "Packages", ", ".join(present) or "none of the optional ones"
