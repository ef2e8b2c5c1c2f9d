"""Where every plan starts: what is asked for, and what the files are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_batch.memory.base import MemoryModel
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.schedule.rescaling import Rescaling
from caffe_batch.planning.split.candidates import Sharing
from caffe_batch.solver.updates import passes


@dataclass(frozen=True)
class Goal:
    """What is asked for, and what the files are.

    Attributes:
        model: The memory model of the recipe.
        options: What the user asks of the plan.
        sharing: How GPUs share an update.
        effective_batch: The samples per update asked for.
    """

    model: MemoryModel
    options: PlanOptions
    sharing: Sharing
    effective_batch: int

    @property
    def files_batch(self) -> int:
        """Samples per update of the files as they are, on a single GPU (for NVCaffe on all)."""
        return _files_batch(self.model)

    @property
    def files_batch_on_all(self) -> int:
        """The same on all GPUs of the plan."""
        return self.files_batch * self.sharing.each

    @property
    def knows_files_batch(self) -> bool:
        """Whether it is known how many samples per update the files are meant for."""
        return (
            self.options.schedule.recipe_batch is not None
            or self.options.own_gpus is not None
            or self.model.gpus == 1
            or self.sharing.divided
        )

    def files_gpus(self, effective_batch: int) -> int:
        """GPUs that the files are for, in a plan with this effective batch.

        A recipe for several GPUs and one for a single GPU look alike, unless they belong to a job:
        if the files, on the plan's GPUs, have the effective batch that they are known to have, or
        that of the plan, they are for these GPUs. So are NVCaffe's, whose batches don't depend on
        the number of GPUs.
        """
        if self.options.own_gpus is not None:
            return self.options.own_gpus
        if self.sharing.divided:
            return self.model.gpus
        given = self.options.schedule.recipe_batch
        known = (self.effective_batch, effective_batch) if given is None else (given,)
        return self.model.gpus if self.files_batch_on_all in known else 1

    def scale(self, effective_batch: int) -> Rescaling:
        """From the recipe's updates to those of a plan with this effective batch."""
        return Rescaling(
            self._recipe_batch(effective_batch), effective_batch, self.options.train_records
        )

    def _recipe_batch(self, effective_batch: int) -> int:
        """Samples per update that the files' schedule was written for."""
        given = self.options.schedule.recipe_batch
        if given is not None:
            return given
        if self.model.recipe.solver_path is None:  # a template's is made for the plan's batch
            return self.effective_batch
        gpus = self.files_gpus(effective_batch)
        return self.files_batch * replace(self.sharing, gpus=gpus).each


def find_goal(model: MemoryModel, options: PlanOptions) -> Goal:
    """What is asked for."""
    sharing = Sharing(model.gpus, model.divides_batch, model.batch_unit)
    return Goal(model, options, sharing, _effective_batch(model, options, sharing))


def _effective_batch(model: MemoryModel, options: PlanOptions, sharing: Sharing) -> int:
    """The effective batch that is asked for."""
    if options.effective_batch is not None:
        return options.effective_batch
    split = options.split
    if split.batch_size is not None and split.iter_size is not None:
        return split.batch_size * split.iter_size * sharing.each
    if options.schedule.recipe_batch is not None:
        return options.schedule.recipe_batch
    return _files_batch(model) * replace(sharing, gpus=options.own_gpus or model.gpus).each


def _files_batch(model: MemoryModel) -> int:
    return model.batch_size * passes(model.recipe.solver)
