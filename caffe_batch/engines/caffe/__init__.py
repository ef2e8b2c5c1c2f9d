"""Real Caffe as the engine: what it says, what it leaves, and the scripts that run inside it."""

from pathlib import Path

#: Scripts for the runtime's own Python (3.6 and newer): the standard library, caffe and numpy only.
INSIDE = Path(__file__).parent / "inside"
