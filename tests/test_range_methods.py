from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.errors import DataError, InputError
from hwsparse.quantise import MOST_VALUE, Scale
from hwsparse.range_methods import (
    BINS,
    CLIPPED,
    LEFT_OUT,
    MAGNITUDES,
    METHODS,
    PLACES,
    Averaged,
    Ends,
    Histogram,
    divergence,
    entropy,
    mse,
    percentile,
    range_method,
)

DRAWN: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "laplace": lambda rng, count: rng.laplace(size=count),
    "uniform": lambda rng, count: rng.uniform(-1, 1, count),
    "relu": lambda rng, count: np.maximum(rng.standard_normal(count), 0),
    "gelu": lambda rng, count: (x := 2 * rng.standard_normal(count)) * (1 / (1 + np.exp(-1.7 * x))),
    "negative": lambda rng, count: -rng.exponential(size=count),
}


def drawn(kind: str, count: int, seed: int = 0) -> np.ndarray:
    return DRAWN[kind](np.random.default_rng(seed), count).astype(np.float32)


def ends_of(method: str, samples: Iterable[np.ndarray]) -> Ends:
    seen = METHODS[method]()
    for sample in samples:
        seen.see(sample)
    return seen.ends


def histogram_of(*samples: np.ndarray) -> Histogram:
    found = Histogram()
    for sample in samples:
        found.see(sample)
    return found


def error(values: np.ndarray, ends: Ends) -> float:
    """The mean square of what values lose as bytes."""
    scale = Scale.of(*ends)
    back = scale.scale * (scale.bytes_of(values).astype(np.float64) - scale.zero)
    return float(((back - values) ** 2).mean())


def held(values: np.ndarray, ends: Ends) -> float:
    """The share of values that bytes for this range can stand for."""
    low, high = min(ends[0], 0), max(ends[1], 0)
    return float(((values >= low) & (values <= high)).mean())


@pytest.mark.parametrize("method", METHODS)
@given(
    kind=st.sampled_from(sorted(DRAWN)),
    samples=st.integers(1, 4),
    size=st.floats(1e-20, 1e20),
    moved=st.floats(-2, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_ranges_lie_within_the_values_and_hold_most_of_them(
    method: str, kind: str, samples: int, size: float, moved: float, seed: int
) -> None:
    values = (size * (drawn(kind, 3000 * samples, seed) + moved)).astype(np.float32)
    low, high = ends_of(method, np.split(values, samples))
    assert values.min() <= low <= high <= values.max()
    assert held(values, (low, high)) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_one_value_a_thousand_times_the_others(method: str) -> None:
    values = drawn("laplace", 200_000)
    values[77] = 1000 * np.abs(values).max()
    low, high = ends_of(method, [values])
    assert values.min() <= low < 0 < high <= values[77]
    if method == "mse":  # which that value alone decides: all others together are worth less
        assert error(values, (low, high)) <= error(values, (float(values.min()), float(values[77])))
    else:
        assert held(values, (low, high)) > 0.999
    if method in ("averaged", "percentile"):  # which forget it
        assert high < 0.02 * values[77]
    else:
        assert high > 0.1 * values[77]


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_a_thousand_times_the_others_does_not_break_a_range(method: str) -> None:
    samples = [drawn("relu", 5000, seed) * (1000 if seed == 3 else 1) for seed in range(10)]
    largest = [float(sample.max()) for sample in samples]
    low, high = ends_of(method, samples)
    assert low == 0 and sorted(largest)[-2] < high <= max(largest)
    assert held(np.concatenate(samples), (low, high)) > 0.9
    if method == "averaged":
        assert high == pytest.approx(np.mean(largest))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 3.5, -3.5, 1e-42, 3e38])
def test_constant_values_are_their_own_range(method: str, constant: float) -> None:
    values = np.full((1, 4, 3), constant, np.float32)
    ends = ends_of(method, [values, values])
    assert ends == (values[0, 0, 0], values[0, 0, 0])
    assert math.sqrt(error(values, ends)) <= max(1e-6 * abs(constant), 1e-37)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_far_from_zero_are_told_to_a_step(method: str, sign: int) -> None:
    values = sign * (1000 + drawn("uniform", 5000))
    low, high = ends_of(method, [values])
    assert values.min() <= low <= high <= values.max()
    scale = Scale.of(low, high)
    back = scale.scale * (scale.bytes_of(values).astype(np.float64) - scale.zero)
    assert np.abs(back - values).max() <= 1001 / MOST_VALUE


def test_a_histogram_counts_what_lies_where_in_whatever_order_samples_come() -> None:
    samples = [size * drawn("normal", 1000, seed) for seed, size in enumerate((1e-3, 40, 1, 0))]
    found, turned = histogram_of(*samples), histogram_of(*reversed(samples))
    np.testing.assert_array_equal(found.counts, np.histogram(np.concatenate(samples), found.edges)[0])
    np.testing.assert_array_equal(found.counts, turned.counts)
    assert found.width == turned.width
    reach = np.abs(np.concatenate(samples)).max()
    assert BINS // 2 <= reach / found.width < BINS


@given(
    largest=st.integers(-120, 120),
    smaller=st.lists(st.none() | st.integers(0, 25), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_ranges_are_the_same_in_whatever_order_samples_come(
    largest: int, smaller: list[int | None], order: random.Random, seed: int
) -> None:
    """Of any size, and zeros alone among them."""
    samples = [
        np.zeros(50, np.float32) if each is None else np.ldexp(drawn("normal", 50, seed + place), largest - each)
        for place, each in enumerate(smaller)
    ]
    turned = order.sample(samples, len(samples))
    zeros_first = sorted(samples, key=np.any)
    found, others = histogram_of(*samples), [histogram_of(*each) for each in (turned, zeros_first)]
    for other in others:
        np.testing.assert_array_equal(found.counts, other.counts)
        assert found.width == other.width
    if any(each is not None for each in smaller):
        assert BINS // 2 <= np.abs(np.concatenate(samples)).max() / found.width < BINS
    for method in ("minmax", "percentile", "entropy", "mse"):
        assert ends_of(method, samples) == ends_of(method, turned) == ends_of(method, zeros_first)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_zeros_first_do_not_make_a_method_blind(method: str) -> None:
    small = np.float32(1e-6) * drawn("laplace", 20_000)
    zeros = np.zeros(100, np.float32)
    ends = ends_of(method, [zeros, small])
    assert ends == ends_of(method, [small, zeros]) != ends_of("minmax", [zeros, small])


@pytest.mark.parametrize("method", METHODS)
def test_no_values_have_no_range(method: str) -> None:
    with pytest.raises(DataError, match=r"a tensor of shape \(0, 3\) holds no values"):
        ends_of(method, [np.zeros((0, 3), np.float32)])


@pytest.mark.parametrize("kind", DRAWN)
def test_percentile_leaves_out_so_many_values(kind: str) -> None:
    values = drawn(kind, 400_000)
    found = histogram_of(*np.split(values, 8))
    expected = np.quantile(values, (LEFT_OUT / 2, 1 - LEFT_OUT / 2))
    np.testing.assert_allclose(percentile(found), expected, atol=2 * found.width)
    assert held(values, percentile(found)) >= 1 - LEFT_OUT


@pytest.mark.parametrize("kind", DRAWN)
def test_mse_errs_hardly_more_than_the_best_of_all_pairs_of_ends(kind: str) -> None:
    values = drawn(kind, 2000)
    low, high = float(values.min()), float(values.max())
    places = np.arange(1, PLACES + 1, 3) / PLACES  # a third of them each way, with the whole range
    lows, highs = (low * places if low < 0 else [low]), (high * places if high > 0 else [high])
    best = min(error(values, (float(one), float(other))) for one in lows for other in highs)
    assert error(values, mse(histogram_of(values))) <= 1.02 * min(best, error(values, (low, high)))


def test_mse_leaves_out_what_is_not_worth_its_place() -> None:
    values = np.concatenate([drawn("normal", 1_000_000), np.float32([-30, 25])])
    low, high = mse(histogram_of(values))
    assert -13 < low < -4 and 4 < high < 13
    assert error(values, (low, high)) < 0.35 * error(values, (-30, 25))


def told_by_hand(counts: np.ndarray, bins: int, step: float) -> float:
    """The divergence as it is defined, value by value."""
    true = [float(count) for count in counts[:bins]]
    true[-1] += float(counts[bins:].sum())
    levels: dict[int, list[int]] = {}
    for place in range(bins):
        levels.setdefault(round((place + 0.5) / step), []).append(place)
    told = [0.0] * bins
    for places in levels.values():
        some = [place for place in places if counts[place]]
        for place in some:
            told[place] = sum(float(counts[each]) for each in some) / len(some)
    pairs = [(p / sum(true), q / sum(told)) for p, q in zip(true, told, strict=True) if p]
    return math.inf if any(q == 0 for _, q in pairs) else sum(p * math.log(p / q) for p, q in pairs)


def test_divergence_is_what_it_is_by_hand() -> None:
    counts = np.array([0, 9, 7, 8, 0, 4, 5, 1, 2, 0, 1, 3, 0, 1])
    for bins in range(4, 15):
        for step in (1.0, 1.7, 3.0):
            assert divergence(counts, bins, step) == pytest.approx(told_by_hand(counts, bins, step), abs=1e-12)
    assert divergence(counts, 10, 2.0) == math.inf  # the tenth bin is empty, and values lie beyond


@pytest.mark.parametrize("kind", ["normal", "relu", "negative"])
def test_entropy_finds_the_magnitude_of_least_divergence(kind: str) -> None:
    values = np.concatenate([drawn(kind, 300), 3 * drawn(kind, 4, seed=1)])
    low, high = float(values.min()), float(values.max())
    found = histogram_of(values)
    width = found.width * BINS / MAGNITUDES
    counts, _ = np.histogram(np.abs(values), np.arange(MAGNITUDES + 1) * width)
    counts[0] = 0  # zeros, which bytes tell exactly
    limits = width * np.arange(MOST_VALUE + 1, int(max(-low, high) / width) + 2)
    clipped = [(np.abs(values) >= limit).sum() / (np.abs(values) >= width).sum() for limit in limits]
    limits = limits[np.array(clipped) <= CLIPPED]

    def told(limit: float) -> float:
        reach = min(high, limit) - max(min(low, 0), -limit)
        return told_by_hand(counts, round(limit / width), reach / MOST_VALUE / width)

    best = min(limits[::5].tolist(), key=told)
    chosen = max(-entropy(found)[0], entropy(found)[1])
    assert told(width * math.ceil(chosen / width)) <= told(best) + 1e-9


def test_zeros_do_not_make_entropy_forget_the_others() -> None:
    values = drawn("relu", 100_000)
    few = values[values > 0]
    assert entropy(histogram_of(values)) == (0, pytest.approx(entropy(histogram_of(few))[1], rel=0.05))
    assert held(values, entropy(histogram_of(values))) > 0.99


def test_averaged_leaves_out_a_share_of_each_sample() -> None:
    found = Averaged(beyond=0.03)
    values = np.linspace(-1, 1, 101, dtype=np.float32)
    values[0] = -1e6
    found.see(values)
    found.see(np.zeros(101, np.float32))
    assert found.ends == pytest.approx((-0.94 / 2, 0.94 / 2))


def test_a_method_that_there_is_not_is_refused() -> None:
    assert range_method("averaged") is Averaged
    with pytest.raises(InputError, match="'best' is no way to find them; use averaged, minmax, percentile, entropy"):
        range_method("best")
