"""The ``caffe-batch`` program: finds the command and maps errors to exit codes.

Commands are imported only when they are called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import click

from caffe_batch import __version__, errors
from caffe_batch.terminal import one_line, plain_streams

#: Command -> (module:attribute, one line for the overview).
COMMANDS = {
    "data": ("caffe_batch.cli.data:data", "Make a data set from pictures, or look at one."),
    "plan": ("caffe_batch.cli.plan:plan", "Find the batch_size x iter_size that fits a budget."),
    "memory": ("caffe_batch.cli.memory:memory", "Predict the memory that a net needs in Caffe."),
    "draw": ("caffe_batch.cli.draw:draw", "Draw a net: layers, shapes, parameters, memory."),
    "train": ("caffe_batch.cli.train:train", "Train a planned net on real Caffe."),
    "status": ("caffe_batch.cli.status:status", "Show the state of a training."),
    "stop": ("caffe_batch.cli.status:stop", "Stop a training that runs in the background."),
    "test": ("caffe_batch.cli.test:test", "Test a trained net on its whole test set."),
    "deploy": ("caffe_batch.cli.deploy:deploy", "Make a net for inference from a trained job."),
    "classify": ("caffe_batch.cli.classify:classify", "Show what a trained net sees in pictures."),
    "export": ("caffe_batch.cli.export:export", "Write a trained net as ONNX or TorchScript."),
    "report": ("caffe_batch.cli.report:report", "Write an HTML page about one or more runs."),
    "verify": (
        "caffe_batch.cli.verify:verify",
        "Measure whether accumulation is the same training.",
    ),
    "strategies": (
        "caffe_batch.cli.strategies:strategies",
        "List the ways to train with a small batch.",
    ),
    "compare": (
        "caffe_batch.cli.compare:compare",
        "Train several strategies with several seeds, and compare them.",
    ),
    "noise": ("caffe_batch.cli.noise:noise", "Measure the gradient noise scale on real Caffe."),
    "render": ("caffe_batch.cli.render:render", "Write a net or solver from a template."),
    "templates": (
        "caffe_batch.cli.templates:templates",
        "Show the nets that come with caffe-batch.",
    ),
    "runtime": (
        "caffe_batch.cli.runtime:runtime",
        "Install, list, check, use or remove a pycaffe.",
    ),
    "doctor": ("caffe_batch.cli.doctor:doctor", "Show what this machine has and what is missing."),
}

#: Characters of a line of a message; the longest path has 4096.
_LONGEST = 6000

#: Exit codes of the program's own errors; the nearest base class decides.
EXIT_CODES: dict[type[BaseException], int] = {
    errors.CaffeBatchError: 1,
    errors.InputError: 2,
    errors.DoesNotFitError: 3,
    errors.TrainingError: 4,
    errors.RuntimeMissingError: 5,
    KeyboardInterrupt: 130,
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = errors.did_you_mean(args[0], list(COMMANDS))
            raise errors.InputError(
                f"there is no command {args[0]!r}",
                hint=hint or f"The commands are {', '.join(COMMANDS)}.",
            )
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="caffe-batch")
def cli() -> None:
    """Plan and run Caffe training that fits your GPU.

    Give it a net, the effective batch that the recipe needs and the memory you have; it finds
    the batch_size x iter_size that fits, writes the prototxts and trains them on Caffe or with
    PyTorch.

    Defaults for every command can be kept in caffe-batch.toml; `caffe-batch doctor` shows where
    it may be.
    """
    from caffe_batch.cli.configuration import configured

    os.environ.update(configured())


def exit_code(error: BaseException) -> int:
    """The exit code of an error: that of its nearest base class in EXIT_CODES, else 1."""
    return next((EXIT_CODES[base] for base in type(error).__mro__ if base in EXIT_CODES), 1)


def main(argv: list[str] | None = None) -> Any:
    """Entry point. The program's own errors become one message on stderr and an exit code."""
    _prepare_streams()
    try:
        with plain_streams(), ExitStack() as until_the_end:
            _run(argv, until_the_end)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    finally:
        _discard_unwritable_output()


def _run(argv: list[str] | None, until_the_end: ExitStack) -> None:
    """Run a command and say what went wrong with it.

    Args:
        argv: The command and its arguments; those of the process if None.
        until_the_end: What the command opens until the program has said everything.
    """
    try:
        cli.main(args=argv, prog_name="caffe-batch", standalone_mode=False, obj=until_the_end)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except errors.CaffeBatchError as error:
        for note in error.notes:
            click.echo(one_line(f"note: {note}"), err=True)
        click.echo(f"caffe-batch: {_legible(error.in_shell())}", err=True)
        if error.completion:
            words = sys.argv[1:] if argv is None else argv
            click.echo(f"All in one: {completed(words, error.completion)}", err=True)
        sys.exit(exit_code(error))
    except OSError as error:
        if _terminal_is_gone(error):
            return
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"caffe-batch: {where}{error.strerror or error}", err=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            click.echo("Free some space there, then run the command again.", err=True)
        sys.exit(1)


def completed(words: Sequence[str], options: Iterable[errors.Option]) -> str:
    """The command line of a call with some options added, to be copied."""
    added = (word for option in options for word in option.shell.split(" ", 1))
    return " ".join(map(_quoted, ["caffe-batch", *words, *added]))


def _quoted(word: str) -> str:
    """A word for a shell, on one line: bash and others know ``$'...'`` with its escapes."""
    if one_line(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{one_line(escaped)}'"


def _legible(message: str) -> str:
    """A message with lines that a person can read, whatever names a file gives its layers."""
    lines = message.split("\n")
    return "\n".join(f"{text[:_LONGEST]} ..." if len(text) > _LONGEST else text for text in lines)


def _terminal_is_gone(error: OSError) -> bool:
    """Whether the terminal that stdout led to is gone; the command's work is done all the same."""
    return error.errno == errno.EIO and error.filename is None


def _discard_unwritable_output() -> None:
    """Redirect streams that can't be written to /dev/null: Python's flush at exit would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Open /dev/null for streams that the caller closed; escape what stdout can't encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
