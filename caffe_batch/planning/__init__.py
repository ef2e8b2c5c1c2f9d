"""How to train at the effective batch within the memory there is."""

from caffe_batch.planning.budget import Budget, parse_budget
from caffe_batch.planning.changes import Change
from caffe_batch.planning.plan import Plan, make_plan
from caffe_batch.planning.split import Candidate, divisors

__all__ = ["Budget", "Candidate", "Change", "Plan", "divisors", "make_plan", "parse_budget"]
