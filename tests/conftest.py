"""Fixtures that any test may use: a real pycaffe, and what the tests of the runtimes need."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from caffe_batch import runtimes
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes.apt import Archive
from caffe_batch.runtimes.installation import this_architecture
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.command import NAMESPACE, can_mount, spawn
from tests.planned_jobs import FinishedJob, write_job

#: Where the workers of the tests find the worker: they run under the runtime's own Python.
os.environ["TEST_INSIDE"] = str(INSIDE)

#: No test depends on what the user who runs the tests has chosen for all commands.
os.environ["CAFFE_BATCH_CONFIG"] = ""

#: Property tests: `make test` tries the same examples every time; `make test-slow` draws fresh ones
#: (--hypothesis-profile=fresh), and what it finds becomes a fixed example. Neither fails because a
#: machine is busy.
hypothesis_settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.register_profile(
    "fresh",
    derandomize=False,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
hypothesis_settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the second engine are slow, but for those that are marked (both_engines.py)."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        second = parameters is not None and parameters.params.get("runtime") == "pytorch"
        if second and not item.get_closest_marker("both"):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that mounts file systems again as the root of a namespace, if this isn't root.

    Where no namespace can be made it runs as it is, and says what it can't mount. It has to have a
    ``tmp_path``: the second run's own is in that.
    """
    if os.geteuid() == 0 or not pyfuncitem.get_closest_marker("mounts"):
        return None
    if not can_mount():
        return None
    place = Path(str(pyfuncitem.funcargs["tmp_path"])) / "again"
    again = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", place]
    done = spawn(*NAMESPACE, *again, pyfuncitem.nodeid, cwd=pyfuncitem.config.rootpath)
    if done.code or "1 passed" not in done.out:
        pytest.fail(done.out + done.err, pytrace=False)
    return True


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Children can be interrupted, also where a shell started the tests with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="session")
def caffes_runtime() -> runtimes.Runtime:
    """Real Caffe's. A machine without one fails the test."""
    try:
        return runtimes.find()
    except RuntimeMissingError as error:
        pytest.fail(
            f"this test runs real Caffe (`make runtime` installs it): {error}", pytrace=False
        )


@pytest.fixture(scope="session")
def runtime(caffes_runtime: runtimes.Runtime) -> runtimes.Runtime:
    """The runtime that a training would use; tests/both_engines.py replaces it in some modules."""
    return caffes_runtime


@pytest.fixture(scope="session")
def pycaffe(
    caffes_runtime: runtimes.Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """A function that runs Python code in the runtime and returns what it prints.

    ``pycaffe(code, *args, cwd=None)``: ``args`` are the code's ``sys.argv[1:]``. Caffe is imported
    already (tests/caffe_server.py) and its BLAS uses one thread. A failure shows the end of what
    was on stderr.
    """
    folder = tmp_path_factory.mktemp("pycaffe")
    server = subprocess.Popen(
        caffes_runtime.command([str(Path(__file__).parent / "caffe_server.py")]),
        env={**caffes_runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    requests, answers = server.stdin, server.stdout
    if requests is None or answers is None:
        pytest.fail("no pipes to the runtime")

    def run(code: str, *args: str, cwd: Path | str | None = None) -> str:
        request = {
            "code": code,
            "args": args,
            "cwd": str(cwd or Path.cwd()),
            "stdout": str(folder / "stdout"),
            "stderr": str(folder / "stderr"),
        }
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        status = int(answers.readline() or "255")
        if status:
            errors = (folder / "stderr").read_text(errors="replace").splitlines()[-40:]
            raise RuntimeError("\n".join([f"pycaffe ended with {status}:", *errors]))
        return (folder / "stdout").read_text()

    yield run
    with server:
        requests.close()


@pytest.fixture(scope="session")
def finished(
    caffes_runtime: runtimes.Runtime, tmp_path_factory: pytest.TempPathFactory
) -> FinishedJob:
    """A job that real Caffe has finished, for the tests that only read it.

    60 updates of 3 micro-batches of 6 samples; tests every 20, snapshots every 25.
    """
    job = write_job(tmp_path_factory.mktemp("finished"), snapshot=25)
    seen: list[Progress] = []
    outcome = train(job, caffes_runtime, observer=seen.append)
    return FinishedJob(job, outcome, tuple(seen))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new data directory, with a name that is hard on shells and configuration files."""
    path = tmp_path / "dätä % dir, x=1"
    monkeypatch.setenv("CAFFE_BATCH_HOME", str(path))
    monkeypatch.delenv(runtimes.VARIABLE, raising=False)
    return path


@pytest.fixture
def archive() -> Archive:
    """A signed archive of small stubs (tests/runtimes/make_archive.py), with its key."""
    folder = Path(__file__).parent / "runtimes" / "archive"
    debian = this_architecture().debian
    return Archive(f"file:{folder}", "bullseye", debian, folder / "key.asc")


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """A function that makes an executable ``tmp_path/bin/NAME`` of a shell script's lines."""

    def make(name: str, script: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
