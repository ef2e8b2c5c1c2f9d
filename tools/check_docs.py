"""Checks the documentation against the program (part of `make check`).

- docs/cli.md is what `--help` prints, and docs/api.md what the docstrings of the library say
  (`--write` regenerates both);
- with `--templates`, which takes half a minute: the table of docs/templates.md is what
  `templates list` says (`--templates --write` regenerates it; a test checks it);
- the README mentions every command of the program;
- relative links in the Markdown files have a target;
- the doctests in the package's docstrings pass.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import click

import caffe_batch
from caffe_batch.cli.main import COMMANDS, cli
from caffe_batch.reporting.templates_view import template_row

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there, not the one above it
from tools.api_reference import api_reference  # noqa: E402

REFERENCE = ROOT / "docs" / "cli.md"
API_REFERENCE = ROOT / "docs" / "api.md"
TEMPLATES = ROOT / "docs" / "templates.md"
TABLE_ROW = re.compile(r"^\|.*\|\n", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def cli_reference() -> str:
    """The help of every command and subcommand, as Markdown."""
    parts = [
        "# Command line reference\n\nWhat `--help` prints; `tools/check_docs.py --write` makes it."
    ]

    def add(command: click.Command, context: click.Context, depth: int) -> None:
        text = command.get_help(context).rstrip()
        parts.append(f"{'#' * depth} {context.command_path}\n\n```text\n{text}\n```")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    add(child, click.Context(child, info_name=name, parent=context), depth + 1)

    add(
        cli,
        click.Context(cli, info_name="caffe-batch", terminal_width=96, **cli.context_settings),
        2,
    )
    return "\n\n".join(parts) + "\n"


def templates_page() -> str:
    """docs/templates.md with the table that the templates make now."""
    head = ["template", "parameters", "batch 1", "batch 32", "what it is for"]
    rows = [head, ["---"] * len(head)]
    for size in caffe_batch.template_sizes():
        rows.append(template_row(size.json()))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    page = TEMPLATES.read_text(encoding="utf-8")
    old = list(TABLE_ROW.finditer(page))
    return page[: old[0].start()] + table + page[old[-1].end() :]


def broken_links() -> list[str]:
    """Relative links in the project's Markdown files that lead nowhere."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    broken = []
    for name in listed.stdout.split():
        page = ROOT / name
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{name}: link to {target} leads nowhere")
    return broken


def failed_doctests() -> list[str]:
    """Modules of the package whose doctests fail."""
    failed = []
    for module in pkgutil.walk_packages(caffe_batch.__path__, "caffe_batch."):
        if ".inside" in module.name:
            continue  # scripts of the runtime's own Python
        if doctest.testmod(importlib.import_module(module.name)).failed:
            failed.append(f"{module.name}: a doctest fails")
    return failed


def main() -> int:
    pages = {REFERENCE: cli_reference(), API_REFERENCE: api_reference()}
    if "--templates" in sys.argv[1:]:
        pages[TEMPLATES] = templates_page()
    if "--write" in sys.argv[1:]:
        for page, text in pages.items():
            page.write_text(text, encoding="utf-8")
    problems = broken_links() + failed_doctests()
    problems += [
        f"docs/{page.name} is not what the program says of itself: tools/check_docs.py --write"
        for page, text in pages.items()
        if not page.exists() or page.read_text(encoding="utf-8") != text
    ]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    problems += [
        f"README.md doesn't mention `caffe-batch {name}`"
        for name in COMMANDS
        if f"caffe-batch {name}" not in readme
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
