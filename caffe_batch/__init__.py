"""Caffe solver configuration generator and launcher: batch_size x iter_size that fits the GPU.

>>> import caffe_batch as cb
>>> cb.plan("caffenet", effective_batch=256, gpu_memory="2GiB", reserve="512MiB",
...         input_shape="data=3x256x256")
<Plan 256 = 64 x 4, 1.45 GiB of 1.5 GiB>
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from caffe_batch.errors import (
    CaffeBatchError,
    DoesNotFitError,
    InputError,
    RuntimeMissingError,
    TrainingError,
)

if TYPE_CHECKING:
    from caffe_batch.api import (
        AsIs,
        Classified,
        Comparison,
        EngineVerification,
        Exported,
        Job,
        Memory,
        NetTest,
        Noise,
        Outcome,
        Picture,
        Plan,
        Strategies,
        Verification,
        as_is,
        classify,
        compare,
        data,
        data_info,
        deploy,
        export,
        memory,
        noise,
        plan,
        render,
        report,
        standings,
        strategies,
        template_sizes,
        templates,
        test,
        verify,
        verify_engines,
        watched_report,
    )

__version__ = "0.1.0"

__all__ = [
    "AsIs",
    "CaffeBatchError",
    "Classified",
    "Comparison",
    "DoesNotFitError",
    "EngineVerification",
    "Exported",
    "InputError",
    "Job",
    "Memory",
    "NetTest",
    "Noise",
    "Outcome",
    "Picture",
    "Plan",
    "RuntimeMissingError",
    "Strategies",
    "TrainingError",
    "Verification",
    "as_is",
    "classify",
    "compare",
    "data",
    "data_info",
    "deploy",
    "export",
    "memory",
    "noise",
    "plan",
    "render",
    "report",
    "standings",
    "strategies",
    "template_sizes",
    "templates",
    "test",
    "verify",
    "verify_engines",
    "watched_report",
]


class _CallablePackage(ModuleType):
    """The package ``caffe_batch.memory``, which is called as ``caffe_batch.api.memory``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from caffe_batch import api

        return api.memory(*args, **options)


class _Library(ModuleType):
    """The package itself: nothing heavy is imported before one of its functions is used."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from caffe_batch import api

        value = getattr(api, name)
        return vars(self).setdefault(name, value)

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the package binds its name here, in place of the function.
        if name == "memory" and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *__all__})


sys.modules[__name__].__class__ = _Library
