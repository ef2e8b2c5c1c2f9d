"""Trains on a GPU that is too small for the plan, in the GPU image, with gpu.c as the GPU.

    python tools/count_gpu_memory/recovery.py

Caffe's own check fails ("out of memory"); `train` must name the reason, plan a smaller split of the
same effective batch, and finish. Part of `make gpu-memory-check`; needs root and buildah.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.count_gpu_memory.check import build_library
from tools.image.build import IMAGES, container_of
from tools.image.check import expect, prepare_demo

#: Less than the plan's 4.64 MiB for batch_size 64, enough for batch_size 32.
LIMIT = 3_000_000

#: Runs in its own namespace, whose /dev contains the sign of a driver that `train` looks for.
SCRIPT = """
set -e
mkdir /run/devices
for device in null zero random urandom; do  # mknod is not among a container's capabilities
    touch /run/devices/$device
    mount --bind /dev/$device /run/devices/$device
done
touch /run/devices/nvidiactl
mount --rbind /run/devices /dev
export PATH=/opt/caffe-batch/bin:$PATH
caffe-batch plan solver.prototxt --effective-batch 256 --gpu-memory 5MiB --reserve 0 --out job
LD_PRELOAD=$PWD/libcount_gpu_memory.so COUNT_GPU_MEMORY_LIMIT=$0 caffe-batch train job
"""


def main() -> None:
    """Trains, and checks how the attempts ended."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare_demo(folder)
        build_library(folder)
        with container_of(IMAGES["gpu"], folder, extra=["--cap-add=CAP_SYS_ADMIN"]) as inside:
            command = ["unshare", "--mount", "sh", "-c", f"cd {folder}{SCRIPT}", str(LIMIT)]
            subprocess.run([*inside, *command], check=True)
        job = folder / "job"
        attempts = json.loads((job / "job.json").read_text())["attempts"]
        endings = [attempt["ending"] for attempt in attempts]
        expect(endings == ["out of GPU memory", "finished"], f"the attempts ended with {endings}")
        detail = attempts[0]["detail"]
        expect("cudaSuccess (2 vs. 0)  out of memory" in detail, f"Caffe said: {detail}")
        plan = json.loads((job / "plan.json").read_text())
        split = plan["batch_size"], plan["iter_size"]
        expect(split == (32, 8), f"trained with {split}")
        print(f"{detail}\nfinished with batch_size {split[0]} x iter_size {split[1]}")


if __name__ == "__main__":
    main()
