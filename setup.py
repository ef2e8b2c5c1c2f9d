"""Thin: the metadata is in pyproject.toml; this adds the two top-level data folders."""

from pathlib import Path

from setuptools import find_packages, setup

SHARED = {"templates", "prototxt"}


def files_below(folder: str) -> list[str]:
    """Every file of a data folder, relative to it (a wheel lists them one by one)."""
    root = Path(folder)
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


setup(
    packages=[
        *find_packages(include=["caffe_batch*"]),
        *(f"caffe_batch.share.{name}" for name in sorted(SHARED)),
    ],
    package_dir={f"caffe_batch.share.{name}": name for name in SHARED},
    package_data={
        "caffe_batch": ["py.typed"],
        "caffe_batch.engines.caffe": [
            "inside/*.py",
            "inside/shim/*.py",
        ],  # scripts of another Python, no package
        "caffe_batch.reporting": ["page/*"],
        "caffe_batch.schema": ["*.proto", "*.pyi"],
        **{f"caffe_batch.share.{name}": files_below(name) for name in SHARED},
    },
)
