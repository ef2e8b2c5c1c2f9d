"""A hook of mkdocs (mkdocs.yml): links from docs/ to files of the checkout, which the site lacks.

`[tile.py](../caffe_batch/layers/tile.py)` becomes text that names the file; one that doesn't exist
is a warning, which ends the build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\.?/[^)#\s]+)(?:#[^)]*)?\)")
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """The page with each link that leaves docs/ replaced by the file's name."""
    folder = Path(page.file.abs_src_path).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link["target"]).resolve()
        if not target.is_relative_to(ROOT) or target.is_relative_to(ROOT / "docs"):
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        if not target.exists():
            log.warning("%s: link to %s leads nowhere", page.file.src_path, name)
        text = link["text"]
        return f"`{name}`" if text in name else f"{text} (`{name}`)"

    return LINK.sub(named, markdown)
