"""A worker of PyTorch one of whose ranks is killed at random; see ``torch_workers.killed``."""

import json
import sys

from torch_workers import killed  # type: ignore[import-not-found]

sys.exit(killed(json.loads(sys.argv[1])))
