"""The worker's part of the log: goes on in a new file when the present one is large.

Caffe writes to file descriptors 1 and 2, so the new file takes their place (dup2): whatever is
written while that happens lands whole in the old file or in the new one. The names change after
that, so that a reader who sees another file under the log's name knows that the old one is
complete. A worker that dies in between leaves ``LOG.new``, which the next change appends to.

Runs on the runtime's Python, 3.6 and newer.
"""

import os


class WorkerLog:
    """The log that this process's stdout and stderr lead to.

    Args:
        path: The log; its older files are ``PATH.1``, ``PATH.2`` and so on.
        max_bytes: From this size on it is left for a new file.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes

    def rotate_if_large(self) -> None:
        """Go on in a new file if the present one has its size."""
        if os.fstat(2).st_size < self.max_bytes:
            return
        new = self.path + ".new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        number = 1
        while os.path.exists(self.path + "." + str(number)):
            number += 1
        os.rename(self.path, self.path + "." + str(number))
        os.replace(new, self.path)
