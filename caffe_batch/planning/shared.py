"""What the GPUs of a training count together, where each of Caffe's counts for itself."""

from __future__ import annotations

from enum import Enum


class Shared(str, Enum):
    """Something that is counted over the samples of all GPUs; the value is that in plan.json."""

    #: The mean and the variance of BatchNorm layers, in the gradient, too.
    BATCH_NORM = "batch_norm"
    #: The labels that count, by which a loss with VALID normalization divides.
    VALID = "valid"


#: As messages list them.
SHARED = ", ".join(each.value for each in Shared)


def shared_of(*, sync_batch_norm: bool, sync_valid: bool) -> tuple[Shared, ...]:
    """What two options ask for.

    >>> shared_of(sync_batch_norm=False, sync_valid=True)
    (<Shared.VALID: 'valid'>,)
    """
    wanted = {Shared.BATCH_NORM: sync_batch_norm, Shared.VALID: sync_valid}
    return tuple(each for each, is_wanted in wanted.items() if is_wanted)
