"""Finds, installs and describes a pycaffe: the Python with caffe that the training runs on.

>>> from caffe_batch import runtimes
>>> runtimes.find("/no/such/python")  # doctest: +ELLIPSIS
Traceback (most recent call last):
caffe_batch.errors.RuntimeMissingError: the runtime /no/such/python is not an executable file
...
"""

from caffe_batch.engines.base import RuntimeInfo
from caffe_batch.runtimes.base import InstallError, InstallObserver, Runtime
from caffe_batch.runtimes.discovery import VARIABLE, Known, find, known
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.installation import install
from caffe_batch.runtimes.running import command_line
from caffe_batch.runtimes.store import (
    DEFAULT_NAME,
    Installed,
    data_directory,
    installed,
    remove,
)

__all__ = [
    "DEFAULT_NAME",
    "VARIABLE",
    "InstallError",
    "InstallObserver",
    "Installed",
    "Known",
    "Runtime",
    "RuntimeInfo",
    "command_line",
    "data_directory",
    "find",
    "inspect",
    "install",
    "installed",
    "known",
    "remove",
]
