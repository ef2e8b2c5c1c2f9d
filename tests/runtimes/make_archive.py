"""Makes tests/runtimes/archive/: a signed Debian archive of four packages of a few bytes.

Run it by hand (it needs gpg and dpkg-deb) and commit what it writes; the keys are thrown away.
The packages have the names that an install asks for. Instead of a C library and a Python they
hold a shell script as the dynamic loader, which answers as the probe would.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("archive")

# In the past, so that no clock takes the signature for one from the future.
DATE, GPG_DATE = "Mon, 01 Jan 2024 00:00:00 UTC", "20240101T000000"

LOADER = """\
#!/bin/sh
cat <<END | tr -d '\\n'
{"python_version": "3.9.0", "caffe_version": "1.0.0-stub", "caffe_path": "stub",
 "numpy_version": "1.19.0", "layer_types": ["Data"], "nccl": false, "import_s": 0.5,
 "gpu_message": "F0101 00:00:00.0 1 common.cpp:66] Cannot use GPU in CPU-only Caffe: check mode."}
END
"""

FILES: dict[str, dict[str, str | bytes]] = {
    "python3-caffe": {"lib/stub/ld.sh": LOADER, "usr/bin/python3.9": "stub\n"},
    "caffe": {"usr/bin/caffe": "stub\n"},
    "libopenblas0-pthread": {"usr/share/stub/zeros": bytes(6 * 2**20)},
    "libstub": {"usr/share/stub/data": "stub\n", "etc/stub": "stub\n"},
}
LINKS = {
    "python3-caffe": {
        "lib64/ld-linux-x86-64.so.2": "/lib/stub/ld.sh",
        "lib/ld-linux-aarch64.so.1": "/lib/stub/ld.sh",
        "usr/share/stub-etc": "/etc",
        "usr/bin/python3": "python3.9",
    }
}


def main() -> None:
    shutil.rmtree(ARCHIVE, ignore_errors=True)
    pool = ARCHIVE / "pool"
    pool.mkdir(parents=True)
    stanzas = [build(name, pool) for name in FILES]
    release = f"Origin: Debian\nLabel: Debian\nSuite: bullseye\nCodename: bullseye\nDate: {DATE}\n"
    release += "Architectures: amd64 arm64\nComponents: main\nSHA256:\n"
    for architecture in ("amd64", "arm64"):
        index = ARCHIVE / f"dists/bullseye/main/binary-{architecture}/Packages"
        index.parent.mkdir(parents=True)
        index.write_text("\n".join(stanzas))
        release += f" {sha256(index)} {index.stat().st_size} main/binary-{architecture}/Packages\n"
    sign(release)


def build(name: str, pool: Path) -> str:
    """Builds a package and returns its stanza in Packages."""
    depends = "Depends: libstub\n" if name == "python3-caffe" else ""
    control = f"Package: {name}\nVersion: 2:1.0-1\nArchitecture: all\nMaintainer: none\n{depends}"
    control += "Description: stub\n"
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        tree.chmod(0o755)
        for path, content in {**FILES[name], "DEBIAN/control": control}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content.encode() if isinstance(content, str) else content)
            (tree / path).chmod(0o755)
        for path, target in LINKS.get(name, {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(target)
        deb = pool / f"{name}_1.0-1_all.deb"
        command = ["dpkg-deb", "-Zxz", "--root-owner-group", "--build", scratch, str(deb)]
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1704067200"})
    return (
        f"{control}Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {sha256(deb)}\n"
    )


def sign(release: str) -> None:
    """Writes InRelease and the key that signed it, and a key that didn't."""
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--batch", "--homedir", home, "--faked-system-time", GPG_DATE]
        for user, file in (("archive", "key.asc"), ("stranger", "strangers_key.asc")):
            new = ["--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"]
            subprocess.run([*gpg, *new], check=True)
            with (ARCHIVE / file).open("wb") as key:
                subprocess.run([*gpg, "--armor", "--export", user], check=True, stdout=key)
        with (ARCHIVE / "dists/bullseye/InRelease").open("wb") as signed:
            clearsign = ["--local-user", "archive", "--digest-algo", "SHA512", "--clearsign"]
            subprocess.run([*gpg, *clearsign], check=True, input=release.encode(), stdout=signed)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
