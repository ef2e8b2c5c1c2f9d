"""`make release-check`: builds what a release consists of, and tries it as a user would.

    python tools/release_check.py [FOLDER]

From a copy of the committed files: the sdist, the wheel from the sdist, their metadata checked as
an index checks them, the wheel installed into a fresh environment (which downloads its
dependencies), and there the version and a plan. With FOLDER, the checked files are left there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent

PLAN = ("plan", "caffenet", "--effective-batch", "256", "--gpu-memory", "2GiB",
        "--input-shape", "data=3x256x256")  # fmt: skip


def run(*command: str | Path, cwd: Path) -> str:
    """Shows a command, runs it, shows and returns what it prints; ends the check if it fails."""
    print(f"$ {' '.join(map(str, command))}", flush=True)
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"release-check: exit status {done.returncode}")
    return done.stdout


def expect(fine: bool, what: str) -> None:
    """Ends the check where something is not as it must be."""
    if not fine:
        sys.exit(f"release-check: {what}")


def build(scratch: Path) -> tuple[Path, Path]:
    """The sdist and the wheel of the commit that is checked out."""
    source, out = scratch / "source", scratch / "dist"
    run("git", "archive", "--output", scratch / "source.zip", "HEAD", cwd=ROOT)
    shutil.unpack_archive(scratch / "source.zip", source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=scratch)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def metadata(sdist: Path, wheel: Path) -> Metadata:
    """The metadata of both, which must be valid and the same."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        expect(member is not None, "the sdist has no PKG-INFO")
        ours = member.read() if member else b""
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        expect(files.read(name) == ours, "the sdist and the wheel have different metadata")
    return Metadata.from_email(ours, validate=True)


def check(scratch: Path) -> tuple[Path, Path]:
    """Builds and tries; the checked files."""
    sdist, wheel = build(scratch)
    found = metadata(sdist, wheel)
    expect(found.license_expression == "BSD-2-Clause", f"licence {found.license_expression}")
    expect(found.description_content_type == "text/markdown", "the README is not taken as Markdown")
    expect(bool(found.description), "there is no description")
    environment = scratch / "environment"
    run(ROOT / "tools" / "make-venv", sys.executable, environment, cwd=scratch)
    python, program = environment / "bin" / "python", environment / "bin" / "caffe-batch"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel,
        cwd=scratch)  # fmt: skip
    version = run(program, "--version", cwd=scratch)
    expect(version == f"caffe-batch, version {found.version}\n", f"the wheel is {found.version}")
    plan = run(program, *PLAN, cwd=scratch)
    expect(plan.startswith("effective batch 256 = batch_size 64 x iter_size 4"), "another plan")
    return sdist, wheel


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="caffe-batch-") as folder:
        files = check(Path(folder))
        for file in files:
            print(f"{file.name}: fine, {file.stat().st_size:,} bytes")
            if sys.argv[1:]:
                target = Path(sys.argv[1]) / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


if __name__ == "__main__":
    main()
