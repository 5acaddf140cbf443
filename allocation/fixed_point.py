"""Numbers cut so that float64 adds them up without rounding.

Where no sum is rounded, no order of addition changes a bit: not the batches, the lanes, the ranks,
a GPU's atomics, nor how a matrix product is split into blocks. So the same hidden states give the
same costs, hence the same word table, on any number of processes.

Legend: N vectors, F features.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

SingleArray: TypeAlias = npt.NDArray[np.float32]

SIGNIFICAND_BITS = 53
"""Whole numbers up to two to this power are exact in float64."""

STATE_STEP = 2.0**-26
"""Hidden states lie in [-1, 1]: sums over 2^27 (134 million) occurrences of a word are exact."""

NATS_STEP = 2.0**-20
"""Sums of losses and of log-normalisers are exact up to 2^33 (8.6 billion) nats."""

SMALLEST_EXPONENT = -60
"""Vectors with no component above two to this power are cut as if they had one."""


def to_multiples(values: Tensor, step: float) -> Tensor:
    """Round to multiples of a power of two; float64, each off by at most half a step."""
    return (values.double() / step).round_().mul_(step)


def shorten(vectors_NF: npt.NDArray[np.floating]) -> SingleArray:
    """Round vectors so that products of any two of them, added up in float64, are exact.

    Each vector is rounded to its own multiples: for up to 512 features its components are off by
    at most 2^-22 of its largest one. So the product of `x` and `y` is off by at most
    `2^-22 (max|x| sum|y| + sum|x| max|y|)`, and a little in second order.

    Args:
        vectors_NF: [N, F]; what is not finite stays so.

    Returns:
        float32 [N, F], which holds them exactly.
    """
    num_features = vectors_NF.shape[1]
    bits = min(24, (SIGNIFICAND_BITS - max(num_features - 1, 0).bit_length()) // 2)
    _, exponents_N = np.frexp(np.abs(vectors_NF, dtype=np.float64).max(axis=1, initial=0.0))
    steps_N1 = np.ldexp(1.0, np.maximum(exponents_N, SMALLEST_EXPONENT) - bits)[:, None]
    shortened: SingleArray = (np.rint(vectors_NF / steps_N1) * steps_N1).astype(np.float32)
    return shortened
