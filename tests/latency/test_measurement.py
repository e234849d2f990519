from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hwsparse import strictjson
from hwsparse.errors import MeasureError
from hwsparse.latency import (
    Device,
    MeasureFailure,
    Measurement,
    RunSettings,
    Toolchain,
    Workload,
    median_interval,
)
from hwsparse.latency.measurement import QUIET, quantile_interval, quiet
from hwsparse.plan import Choice
from tests.latency.examples import devices, measurement, measurements, seconds, settings, toolchains

WORKLOAD = Workload("s", Choice(), "t", 1)


@given(measurements)
def test_the_median_is_numpys_and_inside_its_interval(taken: Measurement) -> None:
    low, high = taken.interval_s
    assert taken.median_s == pytest.approx(float(np.median(taken.samples_s)), rel=1e-12)
    assert low <= taken.median_s <= high
    assert {low, high} <= set(taken.samples_s)


@given(st.lists(seconds, min_size=6, max_size=40), st.randoms())
def test_the_interval_is_of_the_set_of_samples_not_their_order(samples: list[float], random) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)
    assert median_interval(shuffled) == median_interval(samples)


@pytest.mark.parametrize("count", range(6, 15))
def test_the_interval_covers_95_percent_and_no_narrower_one_does(count: int) -> None:
    """Against all ways that samples can fall on either side of the median."""
    rank = median_interval(range(count))[0]

    def coverage(cut: int) -> float:
        falls = product((0, 1), repeat=count)
        return sum(cut < sum(below) < count - cut for below in falls) / 2**count

    assert coverage(int(rank)) >= 0.95
    assert coverage(int(rank) + 1) < 0.95


@pytest.mark.parametrize("count", [36, 60, 300, 5000])
def test_the_interval_of_the_quiet_time_covers_95_percent(count: int) -> None:
    """Against the binomial distribution of scipy."""
    low, high = quantile_interval(range(count), QUIET)
    below = binom(count, QUIET)
    assert below.cdf(low) <= 0.025 and below.sf(high) <= 0.025
    assert low == 0 or below.cdf(low + 1) > 0.025
    assert below.sf(high - 1) > 0.025


def test_the_quiet_time_is_the_tenth_of_the_samples_at_its_slow_end() -> None:
    assert quiet([float(sample) for sample in range(60, 0, -1)]) == 6.0
    assert quiet([3.0, 1.0, 2.0]) == 1.0


def test_the_interval_of_thirty_samples_is_the_tables() -> None:
    """Conover, Practical Nonparametric Statistics: the 10th and the 21st of 30."""
    assert median_interval(range(1, 31)) == (10, 21)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_samples_have_no_interval(count: int) -> None:
    with pytest.raises(MeasureError, match="at least 6"):
        median_interval([1.0] * count)


@pytest.mark.parametrize("bad", [0.0, -1e-3, math.nan, math.inf])
def test_a_sample_is_a_positive_number(bad: float) -> None:
    with pytest.raises(MeasureError, match="not a positive number"):
        measurement(WORKLOAD, 1.0, 1.0, 1.0, 1.0, 1.0, bad)


def test_a_measurement_says_what_it_must() -> None:
    good = measurement(WORKLOAD, 1.0)
    with pytest.raises(MeasureError, match="5 samples"):
        replace(good, samples_s=(1.0,) * 5)
    with pytest.raises(MeasureError, match="time zone"):
        replace(good, taken_at=datetime(2026, 1, 1))
    with pytest.raises(MeasureError, match="'assumed' is no source"):
        replace(good, source="assumed")
    with pytest.raises(MeasureError, match="'luck' is no stage"):
        MeasureFailure("k", "luck", "none")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"threads": 0}, {"rounds": 0}, {"samples": 5}, {"precision": 0.0}, {"precision": math.nan}, {"stretch": 0},
        {"cache": "lukewarm"}, {"timeout_s": 0.0}, {"timeout_s": math.inf}, {"warmup_s": -1.0},
        {"min_sample_s": math.nan}, {"tolerance": -1e-3},
    ],
)  # fmt: skip
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(MeasureError):
        RunSettings(**({"threads": 1} | bad))


@given(settings, devices, toolchains)
def test_provenance_survives_json(how: RunSettings, device: Device, toolchain: Toolchain) -> None:
    for value in (how, device, toolchain):
        assert strictjson.loads(type(value), strictjson.dumps(value), "here") == value
