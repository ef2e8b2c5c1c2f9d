"""Where the files that come with the package are: ``templates/`` and ``prototxt/``.

In a checkout they are top-level folders beside the package; a wheel carries them inside it,
under ``share/`` (see setup.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def folder(name: Literal["templates", "prototxt"]) -> Path:
    """The folder of that name, in the installed package or in the checkout."""
    installed = _PACKAGE / "share" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
