"""The C++ that decides what a prototxt means, and the example nets that Debian ships."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from caffe_batch.runtimes import apt, debian, host, installation

JUDGE = Path(__file__).with_name("textformat_judge.py")


@pytest.fixture(scope="session")
def judge(
    pycaffe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[tuple[bytes | None, str]]]:
    """A function that asks Caffe's C++ what texts are.

    ``judge(message, texts, upgrade=False)``: for each text the message serialized, None where C++
    refuses it, and what it logged. ``upgrade``: after the upgrade of old syntax.
    """
    folder = tmp_path_factory.mktemp("judge")

    def ask(
        message: str, texts: Sequence[str | bytes], *, upgrade: bool = False
    ) -> list[tuple[bytes | None, str]]:
        data = [text if isinstance(text, bytes) else text.encode() for text in texts]
        cases = [[message, upgrade, base64.b64encode(text).decode()] for text in data]
        file = folder / "cases.json"
        file.write_text(json.dumps(cases))
        answers = json.loads(pycaffe(JUDGE.read_text(), str(file)))
        return [
            (None if answer is None else base64.b64decode(answer), log) for answer, log in answers
        ]

    return ask


@pytest.fixture(scope="session")
def caffe_examples(pytestconfig: pytest.Config) -> dict[str, bytes]:
    """Every net and solver of Debian's package caffe-doc: path in the package -> content.

    Downloaded once, then kept in pytest's cache.
    """
    cache = pytestconfig.cache
    assert cache is not None
    folder = cache.mkdir("caffe-doc")
    if not (folder / "usr").exists():
        _unpack("caffe-doc", folder)
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*.prototxt*")}
    return {
        name: gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
        for name, file in sorted(files.items())
        if file.is_file()
    }


def _unpack(package: str, folder: Path) -> None:
    """Downloads a Debian package as the runtimes do, and unpacks it into a folder."""
    architecture = installation.this_architecture().debian
    archive = apt.Archive(host.host_mirror(), debian.SUITE, architecture)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, open(folder / "lock", "w") as lock:
        found = apt.download(archive, [package], Path(scratch), lock.fileno(), lambda *_: None)
        (file,) = (file for file in found if file.name.startswith(f"{package}_"))
        root = Path(scratch) / "root"
        subprocess.run(["dpkg-deb", "-x", str(file), str(root)], check=True)
        (root / "usr").rename(folder / "usr")
