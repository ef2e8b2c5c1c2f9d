"""Imports pycaffe without what it needs for reading image files; for the runtime's own Python.

``caffe.io`` imports scikit-image and SciPy, which takes longer than Caffe and numpy together.
Training needs neither, so they are imported only when one of their functions is called.

This file runs on Python 3.6 and newer and needs only the standard library.
"""

import importlib
import sys
import types

#: Modules that ``caffe.io`` imports and whose functions it calls.
DEFERRED = ("skimage", "skimage.io", "skimage.transform", "scipy", "scipy.ndimage")

#: What older protobuf imports for namespace packages, and can do without.
OPTIONAL = "pkg_resources"


class Deferred(types.ModuleType):
    """Stands in for a module; its functions import the real module when they are called."""

    def __getattr__(self, name):
        if name.startswith("__"):  # the import system probes for some that need not exist
            raise AttributeError(name)

        def call(*args, **keywords):
            return getattr(importlib.import_module(self.__name__), name)(*args, **keywords)

        return call


def import_caffe():
    """The module ``caffe``; only its own import sees the stand-ins for other modules."""
    stand_ins = {name: Deferred(name) for name in DEFERRED if name not in sys.modules}
    for name, module in stand_ins.items():
        package, _, child = name.rpartition(".")
        if package in stand_ins:
            setattr(stand_ins[package], child, module)
    if OPTIONAL not in sys.modules:
        stand_ins[OPTIONAL] = None  # as if it weren't installed
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("caffe")
    finally:
        for name in stand_ins:
            del sys.modules[name]
