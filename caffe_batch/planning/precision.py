"""How exactly an engine calculates."""

from __future__ import annotations

from enum import Enum


class Precision(str, Enum):
    """How exactly the products of a training are calculated; the value is that in plan.json."""

    #: In float32, as Caffe's are.
    FLOAT32 = "float32"
    #: In float32, but for the factors, which a GPU's tensor cores round to 10 bits.
    TF32 = "tf32"
    #: In bfloat16, which has 7 bits; weights, gradients and the update stay in float32.
    BF16 = "bf16"

    @property
    def rounding(self) -> float:
        """The largest relative error of one factor: half of the last bit that it keeps.

        >>> Precision.TF32.rounding, Precision.BF16.rounding
        (0.00048828125, 0.00390625)
        """
        return 2.0 ** -(_BITS[self] + 1)


#: The bits of a factor's fraction.
_BITS = {Precision.FLOAT32: 23, Precision.TF32: 10, Precision.BF16: 7}
#: As options and messages list them.
PRECISIONS = ", ".join(each.value for each in Precision)
