"""The vectorised functions against float64, over all magnitudes, as scalars, in vectorised loops and on vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.activations import KNOWN, POINTS
from hwsparse.codegen.cpu import vector_math
from hwsparse.codegen.cpu.epilogue import ACTIVATIONS, Epilogue
from tests.codegen.compiling import GENERIC, NATIVE, compile_kernel

MAGNITUDES = 10.0 ** np.linspace(-46, 38.5, 4_000)
NEAR = np.linspace(-110, 95, 40_000)
X = np.concatenate([MAGNITUDES, -MAGNITUDES, NEAR, NEAR / 12, [0.0, -0.0]]).astype(np.float32)
X = np.resize(X, -(-X.size // 16) * 16)

erf, erfc = np.vectorize(math.erf), np.vectorize(math.erfc)
REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "erf": erf,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: x * erfc(-x / math.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}
# Products with a factor that cancels near 0 are as exact as the factor, not as the result.
CANCELLING = ("gelu", "gelu_tanh", "hard_swish")


def scalars(function: Callable[[Any], Any], size: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):  # type: ignore[no-untyped-def,valid-type]
        for i in range(size):
            y[i] = function(x[i])

    return kernel


def loops(function: Callable[[Any], Any], size: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):  # type: ignore[no-untyped-def,valid-type]
        for i in range(size // 16):
            for lane in T.vectorized(16):
                y[i * 16 + lane] = function(x[i * 16 + lane])

    return kernel


def vectors(function: Callable[[Any], Any], size: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):  # type: ignore[no-untyped-def,valid-type]
        for i in range(size // 16):
            y[T.Ramp(i * 16, 1, 16)] = function(x[T.Ramp(i * 16, 1, 16)])

    return kernel


def evaluate(function: tirx.PrimFunc, x: np.ndarray, target: dict[str, object]) -> np.ndarray:
    out = tvm.runtime.tensor(np.zeros_like(x))
    compile_kernel(function, target)["kernel"](tvm.runtime.tensor(x), out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("target", [GENERIC, NATIVE], ids=["generic", "reassociating"])
@pytest.mark.parametrize("form", [scalars, loops, vectors])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_function_agrees_with_float64(
    name: str, form: Callable[..., tirx.PrimFunc], target: dict[str, object]
) -> None:
    with np.errstate(over="ignore"):
        expected = REFERENCES[name](X.astype(np.float64))
    most = float(np.finfo(np.float32).max)
    finite = np.abs(expected) < most
    value = evaluate(form(getattr(vector_math, name), X.size), X, target)
    allowed = 1e-6 * np.abs(X) if name in CANCELLING else 5e-7 * np.abs(expected)
    # What becomes of the least numbers, near and below 2^-126, depends on the order of products.
    np.testing.assert_array_less(np.abs(value[finite] - expected[finite]), allowed[finite] + 1e-36)
    assert np.all(value[expected > most * 1.0001] == np.inf)


@pytest.mark.parametrize("form", [scalars, vectors])
@pytest.mark.parametrize("name", REFERENCES)
def test_special_values(name: str, form: Callable[..., tirx.PrimFunc]) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -3e38], np.float32), 16)
    nan, high, low, huge = evaluate(form(getattr(vector_math, name), 16), x, NATIVE)[:4]
    assert np.isnan(nan)
    assert high == {"erf": 1, "tanh": 1, "sigmoid": 1}.get(name, np.inf)
    if name in ("exp", "erf", "tanh", "sigmoid"):
        assert low == {"erf": -1, "tanh": -1}.get(name, 0)
    assert huge == {"erf": -1, "tanh": -1}.get(name, 0)


def test_exp_of_what_is_not_positive() -> None:
    x = np.minimum(X, 0)
    value = evaluate(vectors(vector_math.exp_nonpositive, x.size), x, NATIVE)
    np.testing.assert_allclose(value, np.exp(x.astype(np.float64)), rtol=2e-7, atol=1.2e-38)
    special = np.resize(np.array([np.nan, -np.inf, -0.0, 0.0], np.float32), 16)
    nan, least, *ones = evaluate(vectors(vector_math.exp_nonpositive, 16), special, NATIVE)[:4]
    assert np.isnan(nan) and least < 1.2e-38 and ones == [1, 1]


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_found_is_what_the_epilogue_computes(name: str) -> None:
    assert set(KNOWN) == set(ACTIVATIONS)
    x = np.resize(POINTS, 80).astype(np.float32)
    value = evaluate(scalars(Epilogue(function=name).activation(), x.size), x, GENERIC)
    np.testing.assert_allclose(value, np.resize(KNOWN[name], 80), atol=5e-6)
