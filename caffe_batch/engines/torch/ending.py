"""Why a worker of the PyTorch engine ended.

Its log has the form of Caffe's, so most of it is read as Caffe's is. What torch itself says when
memory is lacking, or a GPU fails, is known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from caffe_batch.engines import base
from caffe_batch.engines.caffe.ending import classify as classify_caffes
from caffe_batch.engines.caffe.log_lines import read_glog_line
from caffe_batch.engines.events import Diverged, Finished, Refused, Stopped, WorkerEvent
from caffe_batch.errors import Text
from caffe_batch.jobs.ending import Ending, EndReason

#: What to try next, by reason.
HINTS: Mapping[EndReason, Text] = {
    **base.HINTS,
    EndReason.CRASHED: "On a GPU, CUDA_LAUNCH_BLOCKING=1 in the environment makes PyTorch name the "
    "operation that failed. Run it again: it continues from the newest snapshot.",
}

# torch.OutOfMemoryError (torch.cuda.OutOfMemoryError before 2.5), and the libraries' handles.
_GPU_MEMORY = re.compile(
    r"\bOutOfMemoryError: CUDA|CUDA out of memory|CUDA error: out of memory"
    r"|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
)
# c10/core/impl/alloc_cpu.cpp
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator: (?:can't allocate|not enough) memory")
_CUDA_ERROR = re.compile(r"(?:CUDA error|cuDNN error|CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+).*")
_NOT_WRITTEN = "snapshot not written: "


def classify(status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
    """The reason of an ending (see :meth:`~caffe_batch.engines.base.Engine.classify`)."""
    if not isinstance(last_word, (Diverged, Finished, Refused, Stopped)):
        for reason, pattern in (
            (EndReason.GPU_MEMORY, _GPU_MEMORY),
            (EndReason.HOST_MEMORY, _HOST_MEMORY),
        ):
            said = next((line for line in log if pattern.search(line)), None)
            if said is not None:
                return Ending(reason, _sentence(said), status)
        fatal = [line for line in map(read_glog_line, log) if line and line.severity == "F"]
        if fatal and fatal[0].message.startswith(_NOT_WRITTEN):
            what = fatal[0].message.removeprefix(_NOT_WRITTEN).removesuffix(".")
            return Ending(EndReason.SNAPSHOT_LOST, what, status)
        if fatal:
            said_by_layer = fatal[0].place.startswith("python_layer")
            reason = EndReason.PYTHON_ERROR if said_by_layer else EndReason.CHECK_FAILED
            return Ending(reason, fatal[0].message.rstrip(". "), status)
        failed = next((match for line in log if (match := _CUDA_ERROR.search(line))), None)
        if failed:
            return Ending(EndReason.CRASHED, failed[0], status)
    return classify_caffes(status, last_word, log)


def _sentence(line: str) -> str:
    """The first sentence of what an exception says, with what was asked for."""
    message = line.split("Error: ", 1)[-1]
    return ". ".join(message.split(". ")[:2]).rstrip(". ")
