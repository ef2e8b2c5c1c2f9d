"""Optional libraries that read data."""

from __future__ import annotations

import importlib
from typing import Any

from caffe_batch.errors import InputError


class MissingExtraError(InputError):
    """A file could be read if another Python package were installed."""


def extra(module: str, name: str, what: str) -> Any:
    """A module that an extra of this package installs.

    Args:
        module: The name of the module.
        name: The name of the extra.
        what: What it would read, for the message.

    Raises:
        MissingExtraError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {what} needs the Python package from the extra {name!r}",
            hint=f"Install it: pip install 'caffe-batch[{name}]'.",
        ) from error
