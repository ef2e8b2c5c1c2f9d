"""The library's front door: what ``import caffe_batch as cb`` provides, ``cb.plan`` and so on.

Nothing here prints. Warnings about files are Python warnings; anything else worth knowing about
a result is in its ``notes`` and ``file_notes``. An error's ``remedies`` are the arguments to
change.
"""

from caffe_batch.api.classifications import classify
from caffe_batch.api.comparisons import Comparison, compare
from caffe_batch.api.datasets import data, data_info
from caffe_batch.api.deployments import deploy
from caffe_batch.api.exports import Exported, export
from caffe_batch.api.jobs import (
    Job,
    Outcome,
    read_runs,
    report,
    standings,
    train_options,
    watched_report,
)
from caffe_batch.api.machines import check_device, find_runtime, find_trainer
from caffe_batch.api.net_tests import NetTest, test
from caffe_batch.api.noise_scales import Noise, noise
from caffe_batch.api.plans import Plan, plan
from caffe_batch.api.predictions import Memory, memory
from caffe_batch.api.rendered import find_template, render, templates
from caffe_batch.api.shells import run_shell
from caffe_batch.api.untouched import AsIs, as_is
from caffe_batch.api.verifications import (
    EngineVerification,
    Verification,
    verify,
    verify_engines,
)
from caffe_batch.api.ways import Strategies, strategies
from caffe_batch.api.zoo import TemplateSize, template_sizes
from caffe_batch.experiments.classification import Classified, Picture

__all__ = [
    "AsIs",
    "Classified",
    "Comparison",
    "EngineVerification",
    "Exported",
    "Job",
    "Memory",
    "NetTest",
    "Noise",
    "Outcome",
    "Picture",
    "Plan",
    "Strategies",
    "TemplateSize",
    "Verification",
    "as_is",
    "check_device",
    "classify",
    "compare",
    "data",
    "data_info",
    "deploy",
    "export",
    "find_runtime",
    "find_template",
    "find_trainer",
    "memory",
    "noise",
    "plan",
    "read_runs",
    "render",
    "report",
    "run_shell",
    "standings",
    "strategies",
    "template_sizes",
    "templates",
    "test",
    "train_options",
    "verify",
    "verify_engines",
    "watched_report",
]
