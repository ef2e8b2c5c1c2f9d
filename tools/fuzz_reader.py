"""Coverage-guided fuzzing of the text reader and the memory model (atheris).

    pip install atheris
    python tools/fuzz_reader.py [FOLDER OF SEEDS] -max_total_time=60

Any exception other than a CaffeBatchError counts as a crash, an input that takes over 5 seconds as
a hang. The seeds are the nets of prototxt/ unless a folder is named.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["caffe_batch"]):
    from caffe_batch import prototxt
    from caffe_batch.errors import CaffeBatchError
    from caffe_batch.memory import SolverSettings, predict_nets
    from caffe_batch.net import NetFile, Sources
    from caffe_batch.net.filtering import net_state

ROOT = Path(__file__).resolve().parent.parent


def one_input(data: bytes) -> None:
    """Reads a net and predicts its memory; the declared errors are allowed."""
    try:
        net = prototxt.parse_net(data.decode(errors="replace"))
        file = NetFile(net, None, net_state("TRAIN", net))
        layers = file.layers(Sources(input_shapes={"data": (1, 8, 8)}), allow_unknown=True)
        predict_nets(file.build(layers), (), SolverSettings(), "gpu")
    except CaffeBatchError:
        pass


def main() -> None:
    warnings.simplefilter("ignore")
    arguments = sys.argv
    if not any(Path(argument).is_dir() for argument in arguments[1:]):
        seeds = [str(path) for path in (ROOT / "prototxt").iterdir() if path.is_dir()]
        arguments = [*arguments, *seeds]
    atheris.Setup([*arguments, "-timeout=5", "-max_len=4096"], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
