"""The help of a command with many options: sections with titles, and examples that parse."""

from __future__ import annotations

import shlex

import click
import pytest

from caffe_batch.cli.main import COMMANDS, cli
from caffe_batch.cli.options import Command, Option


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


LONG = [name for name in COMMANDS if isinstance(command(name), Command)]


def test_the_commands_with_many_options_have_sections() -> None:
    """No command shows more than twenty options in one flat list."""
    many = {
        name
        for name in COMMANDS
        if sum(isinstance(each, click.Option) for each in command(name).params) > 20
    }
    assert {"plan", "train", "strategies", "compare"} <= many <= set(LONG)


@pytest.mark.parametrize("name", LONG)
def test_each_option_is_in_a_section(name: str) -> None:
    """Only --help itself is outside."""
    outside = [
        each.opts[-1]
        for each in command(name).params
        if isinstance(each, click.Option) and not isinstance(each, Option)
    ]
    assert outside == []


@pytest.mark.parametrize("name", LONG)
def test_help_shows_each_option_once(name: str) -> None:
    """However the sections are ordered."""
    shown = command(name).get_help(click.Context(command(name), terminal_width=96))
    for each in command(name).params:
        if isinstance(each, click.Option):
            assert shown.count(f"  {each.opts[0]} ") + shown.count(f", {each.opts[-1]} ") >= 1


def test_plan_and_train_agree_on_the_sections_of_what_is_common() -> None:
    """An option has one section, but for --gpu, which only tells `plan` whose memory is meant."""
    sections: dict[str, set[str]] = {}
    for name in ("plan", "train", "strategies", "compare"):
        for each in command(name).params:
            if isinstance(each, Option) and each.name != "gpu":
                sections.setdefault(each.opts[0], set()).add(each.section)
    assert {option: found for option, found in sections.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", LONG)
def test_examples_are_command_lines_of_that_command(name: str) -> None:
    """Click takes each of them."""
    asked = command(name)
    assert isinstance(asked, Command)
    for line, purpose in asked.examples:
        program, called, *rest = shlex.split(line)
        assert (program, called) == ("caffe-batch", name)
        assert asked.make_context(called, rest).params
        assert purpose[0].isupper()
        assert not purpose.endswith((".", ":"))
