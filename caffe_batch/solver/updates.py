"""What an update is made of: passes, clipping, and the rule that turns a gradient into a step."""

from __future__ import annotations

from caffe_batch.schema import caffe_pb2

#: Rules that scale each gradient by its own size.
ADAPTIVE = ("Adam", "RMSProp", "AdaGrad", "AdaDelta")

#: Rules whose step is an average of gradients by momentum.
AVERAGING = ("SGD", "Nesterov")


def passes(solver: caffe_pb2.SolverParameter) -> int:
    """Passes whose gradients one update adds up; 1 for an iter_size that makes no sense."""
    return max(1, solver.iter_size)


def clips(solver: caffe_pb2.SolverParameter) -> bool:
    """Whether the summed gradient is cut to a norm (sgd_solver.cpp, ClipGradients)."""
    return solver.clip_gradients >= 0
