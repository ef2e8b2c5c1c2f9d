"""What the user asks of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caffe_batch.planning.audit.audit import audit as audit_of_caffe
from caffe_batch.planning.audit.findings import Audit, Cause
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.schedule.growth import Schedule
from caffe_batch.planning.schedule.rescaling import ScheduleOptions
from caffe_batch.planning.shared import Shared
from caffe_batch.planning.split.candidates import SplitOptions


@dataclass(frozen=True)
class PlanOptions:
    """What the user asks of a plan.

    Attributes:
        effective_batch: Samples per update; None for the files' own batch_size x iter_size x GPUs
            (for NVCaffe without the GPUs).
        split: What is asked of the split.
        schedule: What is asked of the schedule.
        refused: Causes that should not be compensated.
        train_records: Records of the train source, if known.
        test_records: Records of each test net's source, None if unknown.
        growth: What happens at the drops of the recipe's rate.
        max_batch: The largest effective batch that growth may reach; a tenth of the records if
            None.
        keep_tests: Leave the test nets' batches and test_iter as they are, unless they read
            through the train net's own data layer.
        shrink_tests: Let test batches shrink for fewer passes even where a score depends on them.
        tests_follow: Whether test batches shrink at least in the ratio in which the train net's
            does, and divide the samples of a test; if not, they may be as large as the files' own.
        test_sizes: Batches that test nets should have, by their numbers, with as many samples in a
            test as in the files; the others' are planned.
        own_gpus: GPUs that the files were planned for; None if unknown.
        summed_iter: Passes that losses which are sums are meant to be summed over; those of an
            update (if the batch grows, of its first stage) if None.
        audit: Says what accumulation changes for the engine that trains.
        precision: How exactly it calculates.
        shared: What its GPUs count together.
    """

    effective_batch: int | None = None
    split: SplitOptions = field(default_factory=SplitOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    refused: frozenset[Cause] = frozenset()
    train_records: int | None = None
    test_records: tuple[int | None, ...] = ()
    growth: Schedule = Schedule.DECAY
    max_batch: int | None = None
    keep_tests: bool = False
    shrink_tests: bool = False
    tests_follow: bool = False
    test_sizes: Mapping[int, int] = field(default_factory=dict)
    own_gpus: int | None = None
    summed_iter: int | None = None
    audit: Audit = audit_of_caffe
    precision: Precision = Precision.FLOAT32
    shared: tuple[Shared, ...] = ()
