"""How to train at the effective batch within the memory there is."""

from caffe_batch.planning.audit import audit
from caffe_batch.planning.budget import Budget, parse_budget
from caffe_batch.planning.changes import Change
from caffe_batch.planning.findings import Cause, Finding, Verdict
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.planner import Wishes, make_plan
from caffe_batch.planning.schedule import LrScaling, ScheduleWishes
from caffe_batch.planning.split import Candidate, SplitWishes, divisors

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
