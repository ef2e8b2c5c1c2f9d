"""Caffe 1.0 as an engine."""

from __future__ import annotations

from caffe_batch.engines.base import Engine
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, CaffeMemory
from caffe_batch.net import Recipe, Sources


class CaffeEngine(Engine):
    """Caffe, run by the Python that can import it."""

    name = "caffe"
    title = "Caffe"

    def memory_model(
        self,
        recipe: Recipe,
        sources: Sources,
        mode: Mode,
        *,
        allow_unknown: bool = False,
        build: Build = Build.CAFFE,
        gpus: int = 1,
        half: bool = False,
    ) -> CaffeMemory:
        return CaffeMemory(recipe, sources, mode, allow_unknown, build, gpus, half)


#: The one instance.
ENGINE = CaffeEngine()
