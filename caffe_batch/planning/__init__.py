"""How to train at the effective batch within the memory there is."""

from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict
from caffe_batch.planning.budget import Budget, parse_budget
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.planner import Wishes, make_plan
from caffe_batch.planning.schedule.rescaling import LrScaling, ScheduleWishes
from caffe_batch.planning.split.candidates import Candidate, SplitWishes, divisors

__all__ = [
    "Budget",
    "Candidate",
    "Cause",
    "Change",
    "Finding",
    "LrScaling",
    "Plan",
    "ScheduleWishes",
    "SplitWishes",
    "Verdict",
    "Wishes",
    "audit",
    "divisors",
    "make_plan",
    "parse_budget",
]
