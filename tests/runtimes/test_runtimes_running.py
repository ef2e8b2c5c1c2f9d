"""`caffe-batch runtime run`: the runtime's Python and programs, and image loading that works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe_batch import runtimes
from caffe_batch.errors import InputError
from caffe_batch.runtimes.container import Container
from caffe_batch.runtimes.debian import ARCHITECTURES, DebianRuntime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.runtimes.running import command_line

#: Hides packages as if they weren't installed.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("skimage", "scipy"):
            raise ImportError("No module named " + name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("skimage", "scipy") else found(name)
sys.meta_path.insert(0, Hidden())
"""

LOAD = """
import json, sys
import caffe
print(json.dumps([caffe.io.load_image(path, color=color).tolist()
                  for path in sys.argv[1:] for color in (True, False)]))
"""


def run(*args: str, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("caffe-batch"), "runtime", "run", *args],
        cwd=cwd, input=text, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """In colour, gray, with a palette, and with transparency."""
    pixels = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    colour = Image.fromarray(pixels)
    opaque = Image.fromarray(np.dstack([pixels, np.full((5, 7), 255, np.uint8)]))
    every = {"colour": colour, "gray": colour.convert("L"), "palette": colour.convert("P"),
             "transparent": opaque}  # fmt: skip
    for name, image in every.items():
        image.save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in every]


def test_a_script_and_its_options(runtime: runtimes.Runtime, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys, caffe\nprint(caffe.__version__, sys.argv)\nsys.exit(7)\n"
    )
    done = run("script.py", "--runtime", "-x", "--", "a b", cwd=tmp_path)
    assert done.stdout == "1.0.0 ['script.py', '--runtime', '-x', '--', 'a b']\n"
    assert done.returncode == 7


def test_prompt_without_arguments(runtime: runtimes.Runtime) -> None:
    assert run(text="import caffe\nprint(caffe.TEST + 41)\n").stdout == "42\n"


def test_a_program_and_its_loader(runtime: runtimes.Runtime) -> None:
    if not isinstance(runtime, DebianRuntime):
        pytest.skip("the runtime in use isn't an installed one")
    done = run("--", "dpkg-query", "--version")
    assert "1.20" in done.stdout  # Debian 11's, whatever the host has
    assert runtime.tool("nosetests3") is None  # a script, which begins with #!/usr/bin/python3


def test_images_load(runtime: runtimes.Runtime, pictures: list[str]) -> None:
    loaded = json.loads(run("-c", LOAD, *pictures).stdout)
    for path, colour, gray in zip(pictures, loaded[::2], loaded[1::2], strict=True):
        with Image.open(path) as image:
            rgb = np.asarray(image.convert("RGB")) / 255
        assert np.abs(np.array(colour) - rgb).max() < 1e-6
        assert np.array(gray).shape == (5, 7, 1)
        luminance = rgb @ [0.2125, 0.7154, 0.0721]
        assert np.abs(np.array(gray)[:, :, 0] - luminance).max() < 1e-5


def test_images_load_without_scikit_image(runtime: runtimes.Runtime, pictures: list[str]) -> None:
    """Pillow gives what scikit-image gives."""
    with_it, without = (
        json.loads(run("-c", code, *pictures).stdout) for code in (LOAD, HIDE + LOAD)
    )
    for one, other in zip(with_it, without, strict=True):
        assert np.abs(np.array(one) - np.array(other)).max() < 1e-6
    done = run("-c", HIDE + "import caffe; caffe.io.resize_image(__import__('numpy').eye(4), (2,))")
    assert "No module named scipy" in done.stderr


def test_unpatched_pycaffe_cannot_load_images(
    runtime: runtimes.Runtime, pictures: list[str]
) -> None:
    """What the shim is for: if this fails, the runtime needs none any more."""
    done = subprocess.run(
        runtime.command(["-c", LOAD, *pictures]), env=runtime.environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    assert "as_grey" in done.stderr


def test_own_sitecustomize_is_still_imported(tmp_path: Path) -> None:
    """With a Python of the user's own, whose PYTHONPATH has one."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mine = 3\n")
    command, environment = command_line(Interpreter(sys.executable), ["-c", "import sys; sys.mine"])
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    subprocess.run(command, env=environment, check=True)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/caffe").write_bytes(b"\x7fELF")
    (tmp_path / "caffe").touch()
    runtime = DebianRuntime("mine", tmp_path, ARCHITECTURES["x86_64"])
    assert command_line(runtime, ["caffe", "time"])[0][-2:] == [
        str(tmp_path / "usr/bin/caffe"), "time",
    ]  # fmt: skip
    assert command_line(runtime, ["./caffe"])[0] == runtime.command(["./caffe"])
    with pytest.raises(InputError, match="mine has no program convert_imageset") as missing:
        command_line(runtime, ["convert_imageset"])
    assert "runtime install --force" in str(missing.value)
    with pytest.raises(InputError, match="'cafe' is neither a program of the runtime mine nor a"):
        command_line(runtime, ["cafe"])


def test_a_container_is_started_by_its_own_program() -> None:
    with pytest.raises(InputError, match="podman run --rm -it --entrypoint=sh site/caffe"):
        command_line(Container("podman:site/caffe", "podman", "site/caffe"), ["script.py"])
