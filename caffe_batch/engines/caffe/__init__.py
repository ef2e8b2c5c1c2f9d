"""Real Caffe as the engine: its log, its files, and the scripts that run inside its Python."""

from pathlib import Path

#: Scripts for the runtime's own Python (3.6 and newer): the standard library, caffe and numpy only.
INSIDE = Path(__file__).parent / "inside"
