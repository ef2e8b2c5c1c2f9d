"""A worker of PyTorch one of whose ranks comes to harm in a pass; see ``torch_workers.harmed``."""

import json
import sys

from torch_workers import harmed  # type: ignore[import-not-found]

sys.exit(harmed(json.loads(sys.argv[1])))
