"""Runs a planned job directory on real Caffe, in a separate process, and keeps its record.

``train(JobDirectory(path), runtimes.find())`` does all of it; the command line adds a display.
"""

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import Outcome
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train

__all__ = [
    "JobBusyError",
    "JobDirectory",
    "JobRecord",
    "JobState",
    "NetTestMetrics",
    "Options",
    "Outcome",
    "Progress",
    "UpdateMetrics",
    "read_metrics",
    "train",
]
