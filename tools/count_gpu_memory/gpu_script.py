"""Runs the workers of benchmarks/gpu in the GPU image, with gpu.c as the GPU.

    python tools/count_gpu_memory/gpu_script.py

Its kernels compute nothing, so no value is compared: every case of `layers` must run through in GPU
mode without a failed check, and a net of `memory` train two updates. Part of
`make gpu-memory-check`; needs root and buildah.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu import device, layers
from caffe_batch.runtimes import Runtime
from tools.count_gpu_memory.check import build_library
from tools.count_gpu_memory.nets import own_nets
from tools.image.build import IMAGES, container_of
from tools.image.check import expect


@dataclass(frozen=True)
class Counted(Runtime):
    """The image's Python with the library preloaded."""

    inside: tuple[str, ...]
    library: Path

    def command(self, args: Sequence[str]) -> list[str]:
        """See :class:`caffe_batch.runtimes.Runtime`."""
        preload = ["env", f"LD_PRELOAD={self.library}", "GLOG_minloglevel=2"]
        return [*self.inside, *preload, "/opt/caffe-batch/bin/python", *args]

    def environment(self) -> dict[str, str]:
        """That of this process: buildah hands nothing of it on."""
        return dict(os.environ)


def main() -> None:
    """Runs the cases, and says how many ran."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for script in (layers.WORKER, device.WORKER):
            shutil.copy(script, folder)
        layers.WORKER, device.WORKER = (
            folder / script.name for script in (layers.WORKER, device.WORKER)
        )
        (folder / "nets").mkdir()
        chosen = layers.cases(folder / "nets")
        library = build_library(folder)
        with container_of(IMAGES["gpu"], folder) as inside:
            runtime = Counted("counted", tuple(inside), library)
            found = layers.run(chosen, runtime, folder / "layers", "gpu")
            missing = [case.name for case in chosen if case.name not in found]
            expect(not missing, f"Caffe aborted {missing}")
            print(f"{len(found)} cases of layers ran in GPU mode")
            (net,) = (net for net in own_nets() if net.name == "cifar10")
            _, job = next(net.jobs(folder))
            seen = device.watch(runtime, job / "solver.prototxt", job, (1, 1), 0, free=lambda: 0)
            expect(seen.seconds is not None, f"Caffe aborted cifar10: {seen.log}")
            print("two updates of cifar10 ran in GPU mode")


if __name__ == "__main__":
    main()
