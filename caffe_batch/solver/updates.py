"""What makes up an update: passes, clipping, and the rule that turns a gradient into a step."""

from __future__ import annotations

from caffe_batch.schema import caffe_pb2

#: Rules that divide each gradient by its own size.
ADAPTIVE = ("Adam", "RMSProp", "AdaGrad", "AdaDelta")

#: Rules whose step averages the gradients by momentum.
AVERAGING = ("SGD", "Nesterov")


def passes(solver: caffe_pb2.SolverParameter) -> int:
    """Passes whose gradients one update adds up; 1 for an iter_size below 1."""
    return max(1, solver.iter_size)


def clips(solver: caffe_pb2.SolverParameter) -> bool:
    """Whether the summed gradient is clipped to a norm (sgd_solver.cpp, ClipGradients)."""
    return solver.clip_gradients >= 0
