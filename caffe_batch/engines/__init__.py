"""What trains: one package for each engine, and the interface that they all share.

Nothing outside this package asks which engine it is: everything else uses an
:class:`~caffe_batch.engines.base.Engine`, found by the name that plan.json or ``--engine`` gives.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from caffe_batch.engines.base import Engine

#: The engine if none is named.
DEFAULT = "caffe"

# Their modules are imported on demand: --help needs only the names.
_MODULES = {
    "caffe": "caffe_batch.engines.caffe.engine",
    "pytorch": "caffe_batch.engines.torch.engine",
}

#: The names of the engines, as plan.json and ``--engine`` spell them.
NAMES = tuple(_MODULES)


def find(name: str = DEFAULT) -> Engine:
    """The engine of that name.

    >>> find("caffe").title
    'Caffe'

    Raises:
        InputError: There is none.
    """
    if name not in _MODULES:
        raise InputError(
            f"there is no engine {name!r}",
            hint=did_you_mean(name, NAMES) or f"There are: {', '.join(NAMES)}.",
        )
    engine: Engine = import_module(_MODULES[name]).ENGINE
    return engine


def title(name: str) -> str:
    """The name of an engine in sentences; for one of another version, as that spells it.

    >>> title("pytorch"), title("abacus")
    ('PyTorch', 'abacus')
    """
    return find(name).title if name in _MODULES else name
