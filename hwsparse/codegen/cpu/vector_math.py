"""Exponential, error function and what follows from them, as TIR expressions that LLVM vectorises.

Each takes a float32 expression, scalar or vector, and gives one of the same type: a few multiply-adds without
branches, table look-ups or calls of the C library, which would run one lane at a time. NaN stays NaN.

Knows nothing of kernels, Relax or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

# Cephes, single/expf.c (S. Moshier): exp(r) = 1 + r + r^2 * P(r) for |r| <= ln(2) / 2, highest power first.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# ln(2) in two parts, of which the first has so few bits that its products with exponents are exact (the same file).
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# A whole number added to this float is in the sum's lowest bits.
_WHOLE, _EXPONENT_BIAS, _MANTISSA_BITS = 1.5 * 2**23, 127, 23
# Outside of these exp is 0 and infinite.
_EXP_LEAST, _EXP_MOST = -104.0, 89.0
# The logarithm of the least normal number.
_EXP_LEAST_NORMAL = -87.3365

# Eigen, unsupported/Eigen/src/SpecialFunctions/SpecialFunctionsImpl.h (generic_fast_erf): erf(x) = x * P(x^2) / Q(x^2).
_ERF_P = (2.12373220e-6, 2.86197959e-4, 3.65804834e-3, 5.24330214e-2, 1.87416077e-1, 1.12837911)
_ERF_Q = (3.89185734e-5, 1.14329602e-3, 1.47520881e-2, 1.12945676e-1, 4.99425798e-1, 1.0)
# Past this erf is 1 but for an eighth of a millionth, and the ratio strays.
_ERF_MOST = 3.8

# Eigen, Eigen/src/Core/MathFunctionsImpl.h (generic_fast_tanh_float): tanh(x) = x * P(x^2) / Q(x^2).
_TANH_P = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-8,
    1.48572235717979e-5, 6.37261928875436e-4, 4.89352455891786e-3,
)  # fmt: skip
_TANH_Q = (1.19825839466702e-6, 1.18534705686654e-4, 2.26843463243900e-3, 4.89352518554385e-3)
_TANH_MOST = 7.90531110763549805


def exp(x: Any) -> Any:
    """e to the power of x, relative error below 2e-7; results down to the least denormal, and infinity."""
    return _exp(_bounded(x, _EXP_LEAST, _EXP_MOST), _scale)


def exp_nonpositive(x: Any) -> Any:
    """`exp` for x <= 0, in fewer steps: what would be less than 2^-126 becomes that."""
    return _exp(tirx.max(_like(x, _EXP_LEAST_NORMAL), x), _scale_normal)


def _exp(x: Any, scale: Callable[[Any, Any], Any]) -> Any:
    def reduced(x: Any) -> Any:
        return _let(_intrinsic("llvm.nearbyint", x * _like(x, math.log2(math.e))), lambda power: scaled(x, power))

    def scaled(x: Any, power: Any) -> Any:
        rest = _fma(power, _like(x, -_LN2_LOW), _fma(power, _like(x, -_LN2_HIGH), x))
        return _let(rest, lambda r: scale(_fma(_polynomial(_EXP, r), r * r, r + _like(x, 1.0)), power))

    return _let(x, reduced)


def erf(x: Any) -> Any:
    """The error function, relative error below 4e-7."""
    return _odd_ratio(_ERF_P, _ERF_Q, _ERF_MOST, x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent, relative error below 5e-7."""
    return _odd_ratio(_TANH_P, _TANH_Q, _TANH_MOST, x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _like(x, 1.0) / (_like(x, 1.0) + exp(-x))


def gelu(x: Any) -> Any:
    """x times the normal distribution's cumulative probability (Hendrycks and Gimpel 2016)."""
    return _let(x, lambda x: (half := x * _like(x, 0.5)) + half * erf(x * _like(x, math.sqrt(0.5))))


def gelu_tanh(x: Any) -> Any:
    """The approximation of `gelu` by tanh in the same paper."""

    def approximation(x: Any) -> Any:
        inner = _fma(x * x, _like(x, 0.044715), _like(x, 1.0)) * x * _like(x, math.sqrt(2 / math.pi))
        return (half := x * _like(x, 0.5)) + half * tanh(inner)

    return _let(x, approximation)


def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return _let(x, lambda x: x / (_like(x, 1.0) + exp(-x)))


def hard_swish(x: Any) -> Any:
    """x * clip(x / 6 + 1/2, 0, 1)."""
    return _let(x, lambda x: x * _bounded(_fma(x, _like(x, 1 / 6), _like(x, 0.5)), 0.0, 1.0))


def reduce_lanes(vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """A vector whose every lane is what `combine` makes of all lanes of `vector`; for use within a kernel."""
    lanes = run = int(vector.ty.dtype.lanes)
    while run > 1:
        run //= 2
        vector = T.bind(combine(vector, tirx.Shuffle([vector], [lane ^ run for lane in range(lanes)])))
    return vector


def _odd_ratio(numerator: Sequence[float], denominator: Sequence[float], most: float, x: Any) -> Any:
    """x * P(x^2) / Q(x^2), and 1 or -1 past `most` and -`most`."""

    def value(x: Any) -> Any:
        ratio = _let(x * x, lambda z: x * (_polynomial(numerator, z) / _polynomial(denominator, z)))
        above = tirx.Select(x >= _like(x, most), _like(x, 1.0), ratio)
        return tirx.Select(x <= _like(x, -most), _like(x, -1.0), above)

    return _let(x, value)


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Horner's rule, highest power first."""
    value = _like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(value, x, _like(x, coefficient))
    return value


def _scale(value: Any, power: Any) -> Any:
    """value * 2^power, in two steps: half the power is a normal number's exponent even where the result is not."""
    half = _intrinsic("llvm.nearbyint", power * _like(power, 0.5))
    return _let(half, lambda half: _scale_normal(_scale_normal(value, half), power - half))


def _scale_normal(value: Any, power: Any) -> Any:
    """value * 2^power where 2^power is a normal number: its exponent, lowest in the sum, is shifted to its place."""
    integer = "int32" + str(power.ty.dtype).removeprefix("float32")
    exponent = tirx.reinterpret(integer, power + _like(power, _WHOLE + _EXPONENT_BIAS))
    return value * tirx.reinterpret(power.ty.dtype, tirx.shift_left(exponent, tirx.const(_MANTISSA_BITS, integer)))


def _bounded(x: Any, low: float, high: float) -> Any:
    """x clipped; where a comparison fails, as with NaN, the second operand is taken."""
    return tirx.min(_like(x, high), tirx.max(_like(x, low), x))


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the target can; unlike the operators it is never reassociated."""
    return _intrinsic("llvm.fmuladd", a, b, c)


def _intrinsic(name: str, *arguments: Any) -> Any:
    return tirx.call_llvm_pure_intrin(arguments[0].ty.dtype, name, *arguments)


def _like(x: Any, value: float) -> Any:
    return tirx.const(value, x.ty.dtype)


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    """An expression in which `value` occurs once, however often `body` uses it."""
    variable = tirx.Var("t", value.ty)
    return tirx.Let(variable, value, body(variable))
