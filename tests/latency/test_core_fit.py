"""The fit finds figures that times were made with, and is as near to published ones as is asked of it."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from hwsparse.errors import MeasureError
from hwsparse.latency.core_fit import Fit, fit, left_out, published
from hwsparse.latency.core_model import Coefficients
from hwsparse.latency.reference import Sample, chip_of, convolutions, networks

TRUE = Coefficients(2.5, 7.0, 4.5, 1.5, 2e-5, 0.2)
FLOAT32 = tuple(each for each in (*convolutions(), *networks()) if each.dtype == "float32")


def as_if(samples: tuple[Sample, ...], figures: Coefficients) -> list[Sample]:
    """The same layers, with times that the model gives."""
    told = Fit(figures, {}).predict(samples)
    return [replace(each, runtime="one", seconds=float(taken_s)) for each, taken_s in zip(samples, told, strict=True)]


def test_figures_that_times_were_made_with_are_found() -> None:
    found = fit(as_if(FLOAT32, TRUE))
    assert astuple(found.coefficients) == pytest.approx(astuple(TRUE), rel=0.02)
    assert found.runtimes["one"] == pytest.approx(1.0, abs=0.01)


def test_a_slower_runtime_is_told_from_a_slower_core() -> None:
    told = as_if(FLOAT32, TRUE)
    mixed = [
        replace(each, runtime="two", seconds=1.5 * each.seconds) if at % 2 else each for at, each in enumerate(told)
    ]
    found = fit(mixed)
    assert found.runtimes["two"] / found.runtimes["one"] == pytest.approx(1.5, rel=0.05)
    ones, anonymous = (found.predict(mixed[:4], anonymous=each) for each in (False, True))
    assert (ones / anonymous).tolist() == pytest.approx([found.runtimes[each.runtime] for each in mixed[:4]])


def test_without_times_nothing_is_fitted() -> None:
    with pytest.raises(MeasureError, match="no published times"):
        fit([])
    with pytest.raises(MeasureError, match="no published times"):
        left_out(FLOAT32[:3], lambda each: "all")


def _errors(samples: list[Sample], told: np.ndarray) -> tuple[float, float]:
    taken = np.array([each.seconds for each in samples])
    return float(np.median(np.abs(told / taken - 1))), float(spearmanr(told, taken).statistic)


def test_convolutions_of_devices_left_out_are_told() -> None:
    told = left_out(FLOAT32, chip_of)
    own = [at for at, each in enumerate(FLOAT32) if each.runtime == "tvm"]
    error, rank = _errors([FLOAT32[at] for at in own], told[own])
    assert error <= 0.20 and rank >= 0.95


def test_sparse_networks_left_out_are_told() -> None:
    own = [at for at, each in enumerate(FLOAT32) if each.sparsity]
    told = [float(fit([each for each in FLOAT32 if each is not FLOAT32[at]]).predict([FLOAT32[at]])[0]) for at in own]
    error, rank = _errors([FLOAT32[at] for at in own], np.array(told))
    assert len(own) == 11 and error <= 0.20 and rank >= 0.95


def test_types_that_nothing_was_fitted_to_are_told_by_rates_alone() -> None:
    found, _ = published()
    for dtype in ("float16", "int8"):
        own = [each for each in networks() if each.dtype == dtype]
        assert _errors(own, found.predict(own))[0] <= 0.20


def test_intervals_hold_nine_in_ten_and_say_that_sparse_is_less_sure() -> None:
    found, widths = published()
    assert published() is published()
    assert 0 < widths.gain < widths.dense < widths.sparse < 1
    dense = [each for each in FLOAT32 if not each.sparsity]
    off = np.abs(np.log([each.seconds for each in dense]) - np.log(found.predict(dense, anonymous=True)))
    assert np.mean(off < widths.dense) >= 0.85
