"""Softmax and layer normalisation along the last axis against float64, over random shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.codegen.cpu.normalise import average, greatest, layer_norm, softmax
from tests.codegen.compiling import run_kernel

shapes = st.lists(st.integers(1, 5), max_size=2).flatmap(
    lambda leading: st.integers(1, 70).map(lambda width: (*leading, width))
)
lanes, threads = st.sampled_from((4, 8, 16)), st.integers(1, 3)


def exact_softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@settings(max_examples=25, deadline=None)
@given(shapes, lanes, threads, st.integers(0, 99))
def test_softmax(shape: tuple[int, ...], lanes: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * rng.choice([0.1, 5, 1000])).astype(np.float32)
    value = run_kernel(softmax(shape, lanes, threads), shape, x)
    np.testing.assert_allclose(value, exact_softmax(x), rtol=1e-6, atol=1e-12)


def test_softmax_over_many_rows_is_shared_out() -> None:
    x = np.random.default_rng(0).standard_normal((130, 65)).astype(np.float32)
    np.testing.assert_allclose(run_kernel(softmax(x.shape, 8, 2), x.shape, x), exact_softmax(x), rtol=1e-6, atol=1e-12)


def test_softmax_of_special_values() -> None:
    x = np.array([[1, -np.inf, 1], [3e38, -3e38, 3e38], [np.nan, 0, 0], [0, 0, np.inf]], np.float32)
    value = run_kernel(softmax(x.shape, 8, 1), x.shape, x)
    np.testing.assert_allclose(value[:2], [[0.5, 0, 0.5]] * 2, atol=1e-30)
    assert np.isnan(value[2]).all() and np.isnan(value[3]).any()


@settings(max_examples=25, deadline=None)
@given(shapes, lanes, threads, st.integers(0, 99))
def test_layer_norm(shape: tuple[int, ...], lanes: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, scale, shift = (rng.standard_normal(size).astype(np.float32) for size in (shape, shape[-1:], shape[-1:]))
    x = x * np.float32(3) + np.float32(rng.choice([0, 10]))
    value = run_kernel(layer_norm(shape, 1e-5, lanes, threads), shape, x, scale, shift)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift
    np.testing.assert_allclose(value, expected, atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(shapes.filter(lambda shape: len(shape) > 1), lanes, threads, st.booleans(), st.booleans())
def test_over_the_last_axes(shape: tuple[int, ...], lanes: int, threads: int, both: bool, kept: bool) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    axes = (-2, -1) if both and len(shape) > 2 else (-1,)
    out_shape = x.max(axes, keepdims=kept).shape
    value = run_kernel(greatest(shape, out_shape, lanes, threads), out_shape, x)
    np.testing.assert_array_equal(value, x.max(axes, keepdims=kept))
    value = run_kernel(average(shape, out_shape, lanes, threads), out_shape, x)
    np.testing.assert_allclose(value, x.mean(axes, keepdims=kept), atol=1e-5)
