"""How LiteRT's reference kernels scale sums to int8, so that the generated C gives the same bits. No TensorFlow.

Convolutions, sums and means multiply by an integer and round twice: MultiplyByQuantizedMultiplier in LiteRT's
tflite/kernels/internal/common.cc, without TFLITE_SINGLE_ROUNDING. Dense layers multiply in float64 and round once: the
kernels in tflite/kernels/internal/reference/integer_ops/fully_connected.h that take scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, frexp

import numpy as np

from stages.lib.errors import UserError

MOST_SUM_BITS = 31


@dataclass(frozen=True)
class Scaling:
    """A factor as the generated code has it.

    Attributes:
        multiplier: for the C function `scale`, in [0, 2 ** 31), the factor is multiplier / 2 ** (31 + shift); for
            `scale_once`, in [0, 2 ** 62), it is multiplier / 2 ** shift.
        shift: at most 31 for `scale`, and below 1 if the factor is 1/2 or more; in [1, 62] for `scale_once`.
    """

    multiplier: int
    shift: int


def quantize_factor(factor: float) -> Scaling:
    """Writes a factor >= 0 for `scale`, as QuantizeMultiplier in LiteRT's quantization_util.cc does it.

    >>> quantize_factor(0.375)
    Scaling(multiplier=1610612736, shift=1)
    """
    fraction, exponent = frexp(factor)
    multiplier = floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    return Scaling(0, 1) if exponent < -31 or multiplier == 0 else Scaling(multiplier, -exponent)


def scale_twice(value: int, scaling: Scaling) -> int:
    """Scales a value as the C function `scale` does; 5/4, for one, becomes 3/2 and then 2.

    >>> [scale_twice(value, Scaling(2**30, 1)) for value in (8, 6, 5, 4, -6)]
    [2, 2, 2, 1, -2]
    """
    product = ((value << max(-scaling.shift, 0)) * scaling.multiplier + 2**30) >> 31
    return product if scaling.shift < 1 else (product - (product < 0) + (1 << (scaling.shift - 1))) >> scaling.shift


def divide_factor(scaling: Scaling, count: int) -> Scaling:
    """Divides a factor for `scale`, as QuantizedMeanOrSum in LiteRT's reference/reduce.h does it for a mean.

    >>> divide_factor(Scaling(2**30, 0), 4)
    Scaling(multiplier=1073741824, shift=2)
    """
    shift = min(count.bit_length() - 1, 31 - scaling.shift)
    return Scaling((scaling.multiplier << shift) // count, scaling.shift + shift)


def check_sums(where: str, largest: int, scalings: Sequence[Scaling]) -> None:
    """Checks that sums of at most `largest`, in size, and shifted up where a factor is above 1, fit into int32.

    Raises:
        UserError: if they do not.
    """
    bits = largest.bit_length() + max(0, *(-scaling.shift for scaling in scalings))
    if bits > MOST_SUM_BITS:
        raise UserError(
            f"{where}: expected sums of at most {MOST_SUM_BITS} bits; got {bits}: weights, biases or scales are out of "
            "proportion; train or export the network anew"
        )


def round_half_away(values: np.ndarray) -> np.ndarray:
    """Rounds float64 to the nearest integers, halves away from zero, as `round` of C; returns int64."""
    sizes = np.abs(values)
    whole = np.floor(sizes)
    return (np.sign(values) * (whole + (sizes - whole >= 0.5))).astype(np.int64)


def find_single_scaling(where: str, factor: float, sums: tuple[int, int], results: tuple[int, int]) -> Scaling:
    """Finds integers with which `scale_once` gives, for each sum, what float64 and `round` of C give.

    Results grow with the sum: it is enough that each one is first reached at the same sum. That bounds the multiplier.

    Args:
        where: the layer, for the message.
        factor: > 0, float64.
        sums: the least and the largest one that can be, int32.
        results: the least and the largest one that counts; what lies beyond is clipped.

    Raises:
        UserError: if there are none, which at most one factor in 10 ** 5 has, or results do not fit into int32.
    """
    wanted = np.arange(results[0] + 1, results[1] + 1)
    near = np.floor(np.clip((wanted - 0.5) / factor, sums[0] - 2, sums[1] + 2)).astype(np.int64)
    candidates = near[:, np.newaxis] + np.arange(-1, 4)
    reaches = round_half_away(candidates * factor) >= wanted[:, np.newaxis]
    first_sums = candidates[np.arange(len(wanted)), reaches.argmax(axis=1)].tolist()
    bits = 62 - max(-sums[0], sums[1]).bit_length()
    shift = min(bits - frexp(factor)[1], 62)
    least, most = 0, 2**bits - 1
    for result, first in zip(wanted.tolist(), first_sums, strict=True):
        half = (2 * result - 1) << (shift - 1)
        # first * multiplier >= half > (first - 1) * multiplier, where these sums can be
        if first and sums[0] <= first <= sums[1]:
            least, most = _narrow(least, most, first, half, is_least=True)
        if first - 1 and sums[0] <= first - 1 <= sums[1]:
            least, most = _narrow(least, most, first - 1, half - 1, is_least=False)
    if least > most or factor * 2**31 >= 2**62:
        raise UserError(f"{where}: expected a factor that integers can express; got {factor!r}; train it anew")
    return Scaling(min(max(round(factor * 2.0**shift), least), most), shift)


def _narrow(least: int, most: int, total: int, bound: int, is_least: bool) -> tuple[int, int]:
    """Narrows the range of a multiplier to those with which total * multiplier is at least, or at most, `bound`."""
    if is_least == (total > 0):
        return max(least, -(-bound // total)), most
    return least, min(most, bound // total)
