"""What happens after a run has failed: what can be changed so that it can continue.

After an out-of-memory or a divergence its files are changed. If one of several ranks has ended,
nothing is changed: the more ranks, the more can go wrong, so all of them start again.
"""

from __future__ import annotations

from pathlib import Path

from caffe_batch.errors import InputError, Option, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.job_recipe import joined, read_job_stages
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import Attempt
from caffe_batch.planning.edits.changes import Change
from caffe_batch.runtimes.reserve import learn_reserve
from caffe_batch.solver.numbers import as_float32
from caffe_batch.training.options import Options
from caffe_batch.training.resplit import split_smaller

#: How many times one ``train`` tries a smaller split, and rolls back after a divergence.
MOST_SPLITS = 8
MOST_ROLLBACKS = 3
#: How many times the ranks start again from the same snapshot.
MOST_RETURNS = 3

_MEMORY = (EndReason.GPU_MEMORY, EndReason.HOST_MEMORY)
_OF_A_RANK = (EndReason.KILLED, EndReason.STALLED, EndReason.RANK_LOST, EndReason.CRASHED)


class Recovery:
    """Decides whether a run continues, and rewrites its files for that; counts the tries.

    Args:
        job: The directory.
        options: How to train.
    """

    def __init__(self, job: JobDirectory, options: Options) -> None:
        self._job, self._rollback, self._count = job, options.rollback, options.count
        self._splits = self._rollbacks = self._returns = 0
        self._from: int | None = None

    def remedy(self, ending: Ending, attempt: Attempt) -> str | None:
        """Make it possible to continue from the newest good snapshot.

        Args:
            ending: How the run ended.
            attempt: Its last worker.

        Returns:
            What was done about it, in a sentence; None if nothing can be done.

        Raises:
            DoesNotFitError: It ran out of memory, and no split is smaller.
            TrainingError: It can't be planned, or was planned too often already.
        """
        if ending.reason in _MEMORY:
            return self._split(ending, attempt)
        if ending.reason is EndReason.DIVERGED and self._rollback is not None:
            return self._roll_back(ending, self._rollback)
        if ending.reason in _OF_A_RANK and self._job.read_plan().gpus > 1:
            return self._return(ending, attempt)
        return None

    def _return(self, ending: Ending, attempt: Attempt) -> str | None:
        """Let all ranks start again; None if that made no progress before."""
        self._returns = 1 if attempt.first_update != self._from else self._returns + 1
        self._from = attempt.first_update
        if self._returns > MOST_RETURNS:
            return None
        return (
            f"{ending.reason.value} ({ending.detail}): all ranks continue from the newest snapshot"
        )

    def _split(self, ending: Ending, attempt: Attempt) -> str:
        if self._splits == MOST_SPLITS:
            raise TrainingError(
                f"{ending.reason.value} even with batch_size {attempt.batch_size}, after "
                f"{MOST_SPLITS} smaller splits",
                hint=[
                    "Run it again to try even smaller ones, or plan again with a smaller ",
                    Option("gpu_memory"),
                    ".",
                ],
            )
        self._splits += 1
        plan = self._job.read_plan()
        _learn(plan, attempt)
        try:
            return split_smaller(self._job, plan, ending, self._count)
        except InputError as error:
            raise TrainingError(
                f"{ending.reason.value} ({ending.detail}), and the job can't be planned again: "
                f"{error.message}",
                hint=error.hint_parts,
            ) from error

    def _roll_back(self, ending: Ending, factor: float) -> str:
        if self._rollbacks == MOST_ROLLBACKS:
            raise TrainingError(
                f"{ending.detail}: the run has diverged again after {MOST_ROLLBACKS} rollbacks",
                hint="Look at the loss in metrics.jsonl; lower base_lr or clip the gradients.",
            )
        self._rollbacks += 1
        rates = scale_rates(self._job, factor, ending.detail)
        return f"{ending.detail}: going back to the last good snapshot with base_lr {rates}"


def _learn(plan: PlanFile, attempt: Attempt) -> None:
    """Remember how much less than predicted fits on this GPU, if the prediction is exact."""
    peak = plan.predicted_on(attempt.device)
    gpu = attempt.device.gpu if attempt.device else None
    if plan.exact and peak and attempt.free_bytes and gpu is not None:
        learn_reserve(gpu, attempt.free_bytes, peak + plan.rounding_bytes)


def scale_rates(job: JobDirectory, factor: float, why: str) -> str:
    """Multiply base_lr of every stage's solver, and list it in plan.json.

    Returns:
        The new rates, for display.
    """
    plan = job.read_plan()
    stages = read_job_stages(job, plan)
    texts: dict[Path, str] = {}
    lists, rates = [], []
    for stage in stages:
        before = as_float32(stage.recipe.solver.base_lr)
        after = as_float32(before * factor)
        change = Change("solver", ("base_lr",), before, after, f"{why}; rolled back")
        texts |= stage.texts([change])
        lists.append(joined(stage.changes, [change]))
        rates.append(f"{after:.4g}")
    job.rewrite({**texts, job.plan: plan.with_changes(lists).text})
    return ", ".join(dict.fromkeys(rates))
