"""Mends pycaffe's image loading; Python imports a module of this name when it starts.

``caffe.io`` imports scikit-image and SciPy, and ``caffe.io.load_image`` passes ``as_grey`` to
scikit-image's ``imread``, which has been called ``as_gray`` since 0.16. Where the two packages
aren't installed, ``import caffe`` works without them, and ``load_image`` reads with Pillow.

This file runs on Python 3.6 and newer and needs only the standard library.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

#: The weights of red, green and blue in scikit-image's rgb2gray.
LUMINANCE = (0.2125, 0.7154, 0.0721)


class MendedLoader(importlib.abc.Loader):
    """Loads ``caffe.io`` as its own loader does, then mends it."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        present = [name for name in ("skimage", "scipy") if importlib.util.find_spec(name)]
        stand_ins = {
            name: deferred(name)
            for name in ("skimage", "skimage.io", "skimage.transform", "scipy", "scipy.ndimage")
            if name.partition(".")[0] not in present
        }
        for name, stand_in in stand_ins.items():
            package, _, child = name.rpartition(".")
            if package in stand_ins:
                setattr(stand_ins[package], child, stand_in)
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for name in stand_ins:
                del sys.modules[name]
        if "skimage" in present:
            accept_as_grey(module.skimage.io)
        else:
            module.load_image = load_image


class CaffeIO(importlib.abc.MetaPathFinder):
    """Finds ``caffe.io`` where it is."""

    def find_spec(self, name, path, target=None):
        if name != "caffe.io":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = MendedLoader(spec.loader)
        return spec


def deferred(name):
    """A module whose functions import the real one when they are called."""
    spec = importlib.util.spec_from_file_location(
        "lean_import", os.path.join(os.path.dirname(HERE), "lean_import.py")
    )
    lean_import = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lean_import)
    return lean_import.Deferred(name)


def accept_as_grey(io):
    """Let scikit-image's imread take ``as_grey``."""
    imread = io.imread

    def imread_as_grey(*args, **keywords):
        if "as_grey" in keywords:
            keywords["as_gray"] = keywords.pop("as_grey")
        return imread(*args, **keywords)

    io.imread = imread_as_grey


def load_image(filename, color=True):
    """What ``caffe.io.load_image`` documents: float32 from 0 to 1, H x W x 3 (RGB) or H x W x 1."""
    import numpy as np
    from PIL import Image

    with Image.open(filename) as image:
        if image.mode.startswith("I"):  # 16 bits of gray
            pixels = np.asarray(image).astype(np.float32)[:, :, np.newaxis] / 65535
            return np.tile(pixels, (1, 1, 3)) if color else pixels
        pixels = np.asarray(image.convert("RGB")).astype(np.float32) / 255
    return pixels if color else pixels.dot(np.array(LUMINANCE, np.float32))[:, :, np.newaxis]


def go_on():
    """Import the sitecustomize that this one stands before, if there is one."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != HERE]
    own = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own


sys.meta_path.insert(0, CaffeIO())
go_on()
