"""caffe-batch.toml: what a user, or the administrator of a machine, chooses once for all commands.

    runtime = "/opt/caffe/bin/python3"
    engine = "pytorch"
    reserve = "700MiB"
    mirror = "<your Debian mirror>"

Each key stands for an environment variable, which wins over the file, as an option wins over both.
The user's file wins over the machine's, key by key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.files import read_regular
from caffe_batch.sizes import parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "caffe-batch.toml"

#: Names a file to read instead of the usual ones; if it is empty, none is read.
VARIABLE = "CAFFE_BATCH_CONFIG"

#: The environment variable that each key stands for.
VARIABLES = {
    "engine": "CAFFE_BATCH_ENGINE",
    "mirror": "CAFFE_BATCH_MIRROR",
    "reserve": "CAFFE_BATCH_RESERVE",
    "runtime": "CAFFE_BATCH_RUNTIME",
}


def paths(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that are read if they exist; earlier ones win."""
    named = environment.get(VARIABLE)
    if named is not None:
        return [Path(named).expanduser()] if named else []
    import platformdirs

    user, site = platformdirs.user_config_path, platformdirs.site_config_path
    return [user("caffe-batch") / NAME, site("caffe-batch") / NAME]


def configured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that the files set and the environment doesn't.

    Raises:
        InputError: A file isn't TOML, has an unknown key, or an invalid value. A file that
            CAFFE_BATCH_CONFIG names is missing.
    """
    found: dict[str, str] = {}
    for path in paths(environment):
        if path.exists() or VARIABLE in environment:
            found = {**read(path), **found}
    return {
        VARIABLES[key]: value for key, value in found.items() if VARIABLES[key] not in environment
    }


def read(path: Path) -> dict[str, str]:
    """The choices in a file, by key.

    Raises:
        InputError: It can't be read, or contains something that isn't understood.
    """
    try:
        content = tomllib.loads(read_regular(path).decode())
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"is not TOML: {error}"
        raise InputError(f"{path}: {why}") from error
    return dict(_checked(path, content))


def _check_engine(name: str) -> None:
    if name not in engines.NAMES:
        raise InputError(
            f"there is no engine {name!r}", hint=f"There are {' and '.join(engines.NAMES)}."
        )


#: Raise an InputError for a value that no command would accept.
_CHECKS: dict[str, Callable[[str], object]] = {"engine": _check_engine, "reserve": parse_size}


def _checked(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if key not in VARIABLES:
            known = f"The keys are {', '.join(sorted(VARIABLES))}."
            raise InputError(
                f"{path}: there is no key {key!r}", hint=did_you_mean(key, [*VARIABLES]) or known
            )
        if not isinstance(value, str) or not value:
            raise InputError(f"{path}: {key} must be a string in quotes")
        try:
            _CHECKS.get(key, str)(value)
        except InputError as error:
            raise InputError(f"{path}: {key}: {error.message}", hint=error.hint_parts) from error
        yield key, value
