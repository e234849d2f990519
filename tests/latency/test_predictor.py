"""What is learned of layers, on devices whose law is known: times here follow from counts, with noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency.predictor import Example, Predictor, misses
from hwsparse.work import Work

RATIOS = (0.0, 0.5, 0.75, 0.9)


def layer_work(size: float, ratio: float, family: str = "a") -> Work:
    parts = {"calls": 1.0, "multiply-adds": size * (1 - ratio), "bytes": 40 * math.sqrt(size)}
    return Work(family, parts, {"size": size, "density": 1 - ratio}, (0.0, -math.log2(1 - ratio)), 0.0)


def seconds(work: Work) -> float:
    """The device: parts take their time, and what is large pays once more, as beyond a cache."""
    taken = 1e-6 + 1e-9 * work.parts["multiply-adds"] + 2e-10 * work.parts["bytes"]
    return taken * (1.3 if work.traits["size"] > 3e5 else 1.0) * (2.0 if work.family == "b" else 1.0)


def examples(count: int, noise: float = 0.0, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for number, size in enumerate(np.exp(rng.uniform(math.log(1e4), math.log(1e6), count))):
        for ratio in RATIOS:
            work = layer_work(float(size), ratio, "ab"[number % 2])
            found.append(Example(f"layer {number}", work, seconds(work) * math.exp(noise * rng.standard_normal())))
    return found


def test_layers_never_measured_are_predicted() -> None:
    predictor = Predictor(examples(40))
    others = examples(40, seed=1)
    likely_s = predictor.seconds([each.work for each in others])
    errors = [abs(likely / each.seconds - 1) for likely, each in zip(likely_s, others, strict=True)]
    assert np.median(errors) < 0.02
    assert np.mean(np.array(errors) < 0.1) >= 0.9


def test_what_is_missed_is_told_by_layers_that_took_no_part() -> None:
    odd = [replace(each, seconds=each.seconds * (1.5 if each.layer == "layer 7" else 1.0)) for each in examples(40)]
    found = misses(odd)
    assert len(found) == len(odd)
    told = [miss.deviation for each, miss in zip(odd, found, strict=True) if each.layer == "layer 7"]
    assert len(told) == len(RATIOS) and np.abs(np.array(told) - math.log(1.5)).max() < 0.15
    assert np.median([abs(miss.deviation) for miss in found]) < 0.02


def test_misses_of_layers_like_no_other_are_not_covered() -> None:
    alone = layer_work(1e8, 0.5, family="c")
    covered = {each.covered for each in misses([*examples(40), Example("odd", alone, 1.0)])[-1:]}
    assert covered == {False}


def test_the_domain_is_what_was_seen() -> None:
    predictor = Predictor(examples(40))
    assert predictor.covers(layer_work(1e5, 0.6))
    assert not predictor.covers(layer_work(1e8, 0.6))
    assert not predictor.covers(layer_work(1e5, 0.6, family="c"))
    # Still answered, by what all families have in common.
    assert predictor.seconds([layer_work(1e5, 0.6, family="c")])[0] > 0


def test_it_is_the_same_every_time() -> None:
    first, second = (Predictor(examples(20, noise=0.1)) for _ in range(2))
    works = [layer_work(1e5, ratio) for ratio in RATIOS]
    assert list(first.seconds(works)) == list(second.seconds(works))


def test_too_few_layers_teach_nothing() -> None:
    with pytest.raises(MeasureError, match="4 layers are measured; predicting others takes at least 5"):
        misses(examples(4))


@pytest.mark.parametrize("count", [-1.0, math.nan, math.inf])
def test_a_count_is_finite_and_not_negative(count: float) -> None:
    with pytest.raises(MeasureError, match="a count is finite"):
        Work("a", {"multiply-adds": count}, {}, (0.0,), 0.0)


def test_a_place_is_somewhere() -> None:
    with pytest.raises(MeasureError, match="is no place"):
        Work("a", {}, {}, (1.0, math.inf), 0.0)
