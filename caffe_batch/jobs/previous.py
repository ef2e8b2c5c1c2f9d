"""The run before, kept while a restart has not proved itself.

``train --restart`` moves the results of the run before to ``.previous``. They are removed once the
new run stands on its own; until then they are the job's, and :meth:`PreviousRun.put_back` brings
them back. What the restart had left by then goes to ``.failed``.

A death at any moment leaves one whole run: every step is a rename, and each folder name says how to
go on.

- ``.previous.part``: the results that lie there are to be moved back. It is being filled, and no
  new run exists; or being emptied, and what the new run had left is in ``.failed`` already.
- ``.previous``: complete; a new run has begun, or may.
- ``.previous.old``: to be removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from caffe_batch.files import read_regular, replace_bytes


class PreviousRun:
    """The results of the run before, in their folder; the job's lock is held for every change.

    Args:
        directory: The job directory.
        results: Lists the files and folders in it that are results of a training.
    """

    def __init__(self, directory: Path, results: Callable[[], Iterable[Path]]) -> None:
        self._directory, self._results = directory, results
        self.folder = directory / ".previous"
        self.failed = directory / ".failed"
        self._part = directory / ".previous.part"
        self._old = directory / ".previous.old"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that may be there."""
        return self.folder, self._part, self._old, self.failed

    @property
    def is_kept(self) -> bool:
        """Whether a new run has begun that hasn't proved itself."""
        return self.folder.is_dir()

    @property
    def is_unfinished(self) -> bool:
        """Whether a move was cut short, in either direction."""
        return self._part.is_dir()

    def set_aside(self) -> None:
        """Move the results out of the way of a new run; what the last failure left is removed.

        Raises:
            OSError: One can't be moved, as a folder that a file system is mounted on; nothing is.
        """
        _remove(self.failed)
        self._part.mkdir()
        try:
            for path in self._results():
                path.rename(self._part / path.name)
        except OSError:
            self.finish_moving()
            raise
        self._part.rename(self.folder)

    def place_now(self, path: Path) -> Path:
        """Where a file is that may be one of the results which were set aside; else as it was."""
        inside = path.resolve()
        if not inside.is_relative_to(self._directory) or inside.exists():
            return path
        moved = self.folder / inside.relative_to(self._directory)
        return moved if moved.exists() else path

    def save(self, files: Iterable[Path]) -> None:
        """Keep files of the plan as they are, before a new run changes them."""
        for file in files:
            if self.is_kept and file.is_file() and not (self.folder / file.name).exists():
                replace_bytes(self.folder / file.name, read_regular(file))

    def put_back(self) -> None:
        """Let the run before be the job's again; what the new one has left goes to ``.failed``."""
        if self.is_kept:
            self.failed.mkdir(exist_ok=True)
            for path in self._results():
                _remove(self.failed / path.name)
                path.rename(self.failed / path.name)
            self.folder.rename(self._part)
        self.finish_moving()

    def finish_moving(self) -> None:
        """Bring a move that was cut short to a state in which the run before is the job's."""
        if self.is_unfinished:
            for path in sorted(self._part.iterdir()):
                path.replace(self._directory / path.name)
            self._part.rmdir()

    def forget(self) -> None:
        """Remove the run before: the new one stands on its own."""
        _remove(self._old)
        if self.is_kept:
            self.folder.rename(self._old)
            _remove(self._old)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one; a link is removed, and not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
