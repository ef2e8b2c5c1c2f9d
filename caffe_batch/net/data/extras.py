"""Libraries that read data and needn't be installed."""

from __future__ import annotations

import importlib
from typing import Any

from caffe_batch.errors import InputError


class MissingExtraError(InputError):
    """A file could be read if another Python package were installed."""


def extra(module: str, name: str, what: str) -> Any:
    """A module that an extra of this package installs.

    Args:
        module: Its name.
        name: The extra's.
        what: What is to be read, for the message.

    Raises:
        MissingExtraError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {what} needs the Python package of the extra {name!r}",
            hint=f"Install it: pip install 'caffe-batch[{name}]'.",
        ) from error
