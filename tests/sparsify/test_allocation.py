"""Allocations against the definitions, and against trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PlanError
from hwsparse.plan import Layer
from hwsparse.sparsify.allocation import erdos_renyi_kernel, global_magnitude, least_harm, uniform

shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)
ratios = st.floats(0, 1)


def layers_of(sizes: list[tuple[int, int]]) -> list[Layer]:
    return [
        Layer(f"layer {place}", "Gemm", f"w{place}", (rows, columns), (1, columns), (1, rows), rows * columns)
        for place, (rows, columns) in enumerate(sizes)
    ]


def zeros(layers: list[Layer], found: dict[str, float]) -> float:
    return sum(found[layer.name] * layer.macs for layer in layers)


@given(sizes=shapes, ratio=ratios, seed=st.integers(0, 99))
def test_each_gives_as_many_zeros_as_asked(sizes: list[tuple[int, int]], ratio: float, seed: int) -> None:
    layers = layers_of(sizes)
    rng = np.random.default_rng(seed)
    weights = {layer.name: rng.standard_normal(layer.weight_shape) for layer in layers}
    total = sum(layer.macs for layer in layers)
    for found in (
        uniform(layers, ratio),
        erdos_renyi_kernel(layers, ratio),
        global_magnitude(layers, ratio, weights.__getitem__),
    ):
        assert all(0 <= each <= 1 for each in found.values())
        assert abs(zeros(layers, found) - ratio * total) <= 0.5 + 1e-6 * total


def test_a_large_layer_gets_more_zeros_and_a_small_one_stays_dense() -> None:
    layers = layers_of([(10, 10), (100, 100), (200, 50), (2, 3)])
    found = erdos_renyi_kernel(layers, 0.6)
    assert found["layer 3"] == found["layer 0"] == 0
    density = {name: 1 - each for name, each in found.items()}
    assert density["layer 1"] / density["layer 2"] == pytest.approx((200 / 10_000) / (250 / 10_000))


def test_the_least_magnitudes_go_wherever_they_are() -> None:
    layers = layers_of([(1, 4), (1, 4)])
    weights = {"layer 0": np.array([[1.0, -2, 3, -4]]), "layer 1": np.array([[0.1, 0.2, 5, 6]])}
    assert global_magnitude(layers, 0.5, weights.__getitem__) == {"layer 0": 0.5, "layer 1": 0.5}
    assert global_magnitude(layers, 0.375, weights.__getitem__) == {"layer 0": 0.25, "layer 1": 0.5}
    equal = dict.fromkeys(weights, np.ones((1, 4)))
    assert global_magnitude(layers, 0.25, equal.__getitem__) == {"layer 0": 0.5, "layer 1": 0.0}


def test_what_makes_answers_infinite_is_not_taken() -> None:
    layers = layers_of([(1, 8), (1, 8)])
    harm = {"layer 0": {0.5: 1.0, 0.75: math.inf}, "layer 1": {0.5: 2.0, 0.75: 9.0}}
    assert least_harm(layers, 0.5, harm) == {"layer 0": 0.5, "layer 1": 0.5}
    with pytest.raises(PlanError, match="do not reach"):
        least_harm(layers_of([(10, 8), (10, 8)]), 0.75, harm)


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4), ratio=st.floats(0, 0.75), seed=st.integers(0, 99))
def test_no_other_ratios_harm_less_with_as_many_zeros(sizes: list[int], ratio: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = layers_of([(size, 8) for size in sizes])
    grid = (0.25, 0.5, 0.75)
    harm = {layer.name: dict(zip(grid, rng.random(3).cumsum(), strict=True)) for layer in layers}
    found = least_harm(layers, ratio, harm)
    reached = zeros(layers, found)
    assert abs(reached - ratio * sum(layer.macs for layer in layers)) <= 1 + len(layers)
    own = sum(between(harm[name], each) for name, each in found.items())
    for tried in itertools.product((0.0, *grid), repeat=len(layers)):
        other = {layer.name: each for layer, each in zip(layers, tried, strict=True)}
        if zeros(layers, other) >= reached:
            assert own <= sum(harm[name].get(each, 0.0) for name, each in other.items()) + 1e-9


def between(curve: dict[float, float], ratio: float) -> float:
    """The least harm of a ratio, and of any two of which a share each makes it."""
    points = [(0.0, 0.0), *curve.items()]
    return min(
        before + (after - before) * ((ratio - low) / (high - low) if high > low else 0.0)
        for low, before in points
        for high, after in points
        if low <= ratio + 1e-12 and ratio <= high + 1e-12 and (high > low or abs(low - ratio) < 1e-12)
    )


def test_what_cannot_be_had() -> None:
    layers = layers_of([(8, 8)])
    with pytest.raises(PlanError, match="do not reach 80%"):
        least_harm(layers, 0.8, {"layer 0": {0.5: 1.0}})
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(PlanError, match="between 0 and 1"):
            uniform(layers, ratio)
