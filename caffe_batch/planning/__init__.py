"""How to train at the effective batch within the available memory."""

from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict
from caffe_batch.planning.budget import Budget, parse_budget
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.planner import make_plan
from caffe_batch.planning.schedule.rescaling import LrScaling, ScheduleOptions
from caffe_batch.planning.split.candidates import Candidate, SplitOptions, divisors

__all__ = [
    "Budget",
    "Candidate",
    "Cause",
    "Change",
    "Finding",
    "LrScaling",
    "Plan",
    "PlanOptions",
    "ScheduleOptions",
    "SplitOptions",
    "Verdict",
    "audit",
    "divisors",
    "make_plan",
    "parse_budget",
]
