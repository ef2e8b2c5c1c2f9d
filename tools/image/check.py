"""`make image-check`: tries the images that build.py has built, doing what they are for.

    python tools/image/check.py [cpu] [gpu]

In each, as its ordinary user: doctor, the layer types, the digits demo on the CPU, a stop by a
signal that takes a snapshot. Where there is Podman, a training on this machine with the worker in
the image. The images must not contain a toolchain, and libcaffe in the GPU image must contain GPU
code for every architecture that the Dockerfile names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.image.build import DOCKERFILE, IMAGES, ROOT, container_of, run
from tools.image.gpu_code import entries

LAYER_TYPES = 61
USER = 1000

#: Programs that must not be in the last stage.
TOOLCHAIN = ("cc", "g++", "gcc", "make", "nvcc", "pip3", "cmake")

#: Stops a training as `docker stop` does, once it has done its first updates. The status goes to a
#: file: on a busy machine buildah loses the last words of a shell in the background.
STOP = """
tini -- caffe-batch train stopped --cpu -q &
until [ -s stopped/metrics.jsonl ]; do sleep 0.2; done
kill -TERM $!
wait $!
echo $? > status
"""


def say(inside: Sequence[str], *command: str) -> str:
    """Runs a command in a container, showing the command and its output."""
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run([*inside, *command], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.stdout


def expect(fine: bool, what: str) -> None:
    """Ends the check if a condition isn't met."""
    if not fine:
        sys.exit(f"image-check: {what}")


def prepare_demo(folder: Path) -> None:
    """The digits as LMDB and the recipe, for the image's user."""
    run(sys.executable, ROOT / "tools" / "digits.py", folder)
    for file in (ROOT / "prototxt" / "digits").iterdir():
        shutil.copy(file, folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)


def check(target: str, folder: Path) -> None:
    """Checks the image of one target."""
    prepare_demo(folder)
    with container_of(IMAGES[target], folder, user=str(USER)) as container:
        inside = [*container, "sh", "-c", f'cd {folder} && PATH="$0" && exec "$@"',
                  "/opt/caffe-batch/bin:/usr/local/bin:/usr/bin:/bin"]  # fmt: skip
        found = say(inside, "sh", "-c", f"command -v {' '.join(TOOLCHAIN)} || true")
        expect(not found.strip(), "there is a toolchain")
        say(inside, "caffe-batch", "doctor")
        say(inside, "caffe-python", "-c", "import caffe; print(caffe.__version__)")
        info = json.loads(say(inside, "caffe-batch", "runtime", "check", "--json"))
        expect(len(info["layer_types"]) == LAYER_TYPES, f"not {LAYER_TYPES} layer types")
        expect(info["gpu"] == (target == "gpu"), "the wrong kind of build")
        for job in ("job", "stopped"):
            say(inside, "caffe-batch", "plan", "solver.prototxt", "--effective-batch", "256",
                "--gpu-memory", "5MiB", "--reserve", "0", "--out", job)  # fmt: skip
        said = say(inside, "caffe-batch", "train", "job", "--cpu")
        accuracy = float(re.search(r"accuracy ([\d.]+)", said)[1])  # type: ignore[index]
        expect(accuracy > 0.97, f"the demo's accuracy is {accuracy}")
        say(inside, "sh", "-c", STOP)
        status = (folder / "status").read_text().strip()
        expect(status == "130", f"a training that is stopped by a signal ends with {status}")
        snapshots = folder / "stopped" / "snapshots"
        expect(any(snapshots.glob("*.solverstate")), "no snapshot after a signal")
        if target == "gpu":
            check_gpu_code(inside, folder)
    check_engine(target, folder)


def check_engine(target: str, folder: Path) -> None:
    """Trains on this machine with the worker in the image, if Podman can run a container.

    One training is stopped by a signal, one loses its supervisor, the last one finishes; none may
    leave a container. (CONTAINERS_CONF names settings for a machine with unusual limits.)
    """
    image = IMAGES[target]
    trial = ["podman", "run", "--rm", image, "--version"]
    if not shutil.which("podman") or subprocess.run(trial).returncode:
        print("Podman can't run a container here: `train --runtime podman` was not tried")
        return
    job = folder / "job"
    program = [sys.executable, "-m", "caffe_batch", "train", str(job), "--cpu", "-q",
               "--runtime", f"podman:{image}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number, restart in ((signal.SIGINT, True), (signal.SIGKILL, False)):
        more = ["--restart"] if restart else []
        with subprocess.Popen([*program, *more], env=environment) as training:
            wait_for(lambda: bool(workers()))
            time.sleep(5)  # by then it is training
            training.send_signal(number)
        wait_for(lambda: not workers())
    states = sorted((job / "snapshots").glob("*.solverstate"))
    expect(len(states) >= 2, f"a signal and a lost supervisor left {states}")
    done = subprocess.run(program, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout)
    expect(done.stdout.startswith("Finished: 400 of 400"), "no training through podman")
    expect(not workers(), "a container was left")


def workers() -> list[str]:
    """Names of the containers that `train` has named, running or not."""
    return run(
        "podman", "ps", "--all", "--format={{.Names}}", "--filter=name=^caffe-batch-"
    ).split()


def wait_for(done: Callable[[], bool], timeout_s: float = 60) -> None:
    """Waits until a condition is met; ends the check if that takes too long."""
    end = time.monotonic() + timeout_s
    while not done():
        expect(time.monotonic() < end, "waited too long")
        time.sleep(0.2)


def check_gpu_code(inside: Sequence[str], folder: Path) -> None:
    """All libraries must be present, and libcaffe must contain the code the Dockerfile names."""
    library = "/usr/local/lib/libcaffe.so.1.0.0"
    expect("not found" not in say(inside, "ldd", library), "a library is missing")
    say(inside, "cp", library, str(folder))
    code = Counter(entries((folder / Path(library).name).read_bytes()))
    print(dict(code))
    names = re.search(r'^ARG CAPABILITIES="(.*)"$', DOCKERFILE.read_text(), re.MULTILINE)
    wanted = names[1].split() if names else []
    expected = {f"sm_{name}" for name in wanted} | {f"compute_{max(wanted)}"}
    expect(set(code) == expected, f"expected {sorted(expected)}")
    expect(len(set(code.values())) == 1, "some source files have no code for some GPUs")


def main() -> None:
    """Checks the requested images, or both."""
    for target in sys.argv[1:] or IMAGES:
        with tempfile.TemporaryDirectory() as scratch:
            check(target, Path(scratch))
        size = run("buildah", "images", "--format", "{{.Size}}", IMAGES[target])
        print(f"{IMAGES[target]}: fine, {size}")


if __name__ == "__main__":
    main()
