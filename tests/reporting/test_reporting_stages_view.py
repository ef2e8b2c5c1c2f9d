"""The table of a schedule's stages."""

from __future__ import annotations

import io

from rich.console import Console

from caffe_batch.planning.schedule.growth import grow
from caffe_batch.reporting.stages_view import stages_view
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import step_decay

SHOWN = """\
   epochs  updates  effective batch  iter_size  learning rate  why
   0 - 60   23,460              128          2            0.1  the recipe's first rate
 60 - 120    4,740              640         10            0.1  epoch 60, where the recipe divides \
the rate by 5: the batch grows by 5 instead
120 - 160      640            3,200         50            0.1  epoch 120, where the recipe divides \
the rate by 5: the batch grows by 5 instead
160 - 200      400            5,120         80          0.032  epoch 160, where the recipe divides \
the rate by 5: the batch grows by 1.6, and the rate is divided by 3.125 (5120 is the largest batch)
    total   29,240
"""


def test_the_schedule_of_the_paper() -> None:
    solver = caffe_pb2.SolverParameter(
        base_lr=0.1, lr_policy="multistep", gamma=0.2, stepvalue=[23460, 46920, 62560],
        max_iter=78200,
    )  # fmt: skip
    decay = step_decay(solver, 50_000, 128)
    console = Console(file=io.StringIO(), width=240, force_terminal=False)
    console.print(stages_view(grow(decay, effective_batch=128, pass_samples=64, max_batch=5120)))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert "\n".join(lines) + "\n" == SHOWN
