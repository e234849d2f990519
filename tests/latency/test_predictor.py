"""What is learned of layers, on devices whose law is known: times here follow from counts, with noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency.learned import Known, Learned
from hwsparse.latency.predictor import Example, Predictor, conformal
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from hwsparse.work import Work

RATIOS = (0.0, 0.5, 0.75, 0.9)


def layer_work(size: float, ratio: float, family: str = "a") -> Work:
    parts = {"calls": 1.0, "multiply-adds": size * (1 - ratio), "bytes": 40 * math.sqrt(size)}
    return Work(family, parts, {"size": size, "density": 1 - ratio})


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
    predictor = Predictor.fit(examples(40))
    errors = [abs(predictor.seconds(each.work) / each.seconds - 1) for each in examples(40, seed=1)]
    assert np.median(errors) < 0.02
    assert np.mean(np.array(errors) < 0.1) >= 0.9


def test_intervals_hold_nine_out_of_ten() -> None:
    predictor = Predictor.fit(examples(60, noise=0.05))
    inside = [
        low <= each.seconds <= high
        for each in examples(100, 0.05, seed=1)
        for low, high in [predictor.interval(each.work)]
    ]
    assert 0.85 <= np.mean(inside) <= 0.97
    assert predictor.spread > 0.05


def test_the_domain_is_what_was_seen() -> None:
    predictor = Predictor.fit(examples(40))
    assert predictor.covers(layer_work(1e5, 0.6))
    assert not predictor.covers(layer_work(1e8, 0.6))
    assert not predictor.covers(layer_work(1e5, 0.6, family="c"))
    # Still answered, by what all families have in common.
    assert predictor.seconds(layer_work(1e5, 0.6, family="c")) > 0


def test_it_is_the_same_every_time() -> None:
    first, second = (Predictor.fit(examples(20, noise=0.1)) for _ in range(2))
    work = layer_work(1e5, 0.6)
    assert (first.seconds(work), first.interval(work)) == (second.seconds(work), second.interval(work))


def test_too_few_layers_teach_nothing() -> None:
    with pytest.raises(MeasureError, match="4 layers are measured; predicting others takes at least 5"):
        Predictor.fit(examples(4))


def test_the_conformal_error_is_the_one_of_its_rank() -> None:
    """Of n + 1 exchangeable errors, the last lies below the k-th smallest of n with probability k / (n + 1)."""
    assert conformal([float(error) for error in range(1, 20)]) == 18.0
    assert conformal([1.0] * 8) == math.inf


@pytest.mark.parametrize("count", [-1.0, math.nan, math.inf])
def test_a_count_is_finite_and_not_negative(count: float) -> None:
    with pytest.raises(MeasureError, match="a count is finite"):
        Work("a", {"multiply-adds": count}, {})


class Device:
    """Layers are called by their sizes; each is off from the law by a factor of its own, along all ratios."""

    def describe(self, signature: str, choice: Choice, kernel: str | None) -> Work | None:
        return None if kernel == "none" else layer_work(float(signature), choice.ratio)

    def takes(self, signature: str, ratio: float) -> float:
        work = self.describe(signature, Choice(Block(4), ratio), "k")
        assert work is not None
        return seconds(work) * (1 + 0.3 * math.sin(float(signature)))

    def curve(self, signature: str, ratios: tuple[float, ...]) -> list[Known]:
        return [Known(Choice(Block(4), ratio), self.takes(signature, ratio), "k") for ratio in ratios]


@pytest.fixture(scope="module")
def learned() -> Learned:
    device, rng = Device(), np.random.default_rng(0)
    sizes = [f"{size:.1f}" for size in np.exp(rng.uniform(math.log(1e4), math.log(1e6), 40))]
    return Learned.fit([(size, device.curve(size, (0.3, 0.5, 0.7, 0.8, 0.9))) for size in sizes], device.describe)


def test_a_curves_own_measurements_correct_what_is_predicted_between_them(learned: Learned) -> None:
    device = Device()
    size = next(str(size) for size in range(123456, 124000) if math.sin(size) > 0.99)
    known = device.curve(size, (0.3, 0.9))
    guess = learned.guess(size, Choice(Block(4), 0.6), known)
    assert guess is not None and guess.in_domain
    assert guess.seconds == pytest.approx(device.takes(size, 0.6), rel=0.03)
    alone = learned.guess(size, Choice(Block(4), 0.6), [])
    assert alone is not None
    assert abs(alone.seconds / device.takes(size, 0.6) - 1) > 0.05
    assert guess.interval_s[1] / guess.seconds < alone.interval_s[1] / alone.seconds


def test_beyond_a_curves_measurements_nothing_is_surer_than_elsewhere(learned: Learned) -> None:
    size = "123456.7"
    beyond = learned.guess(size, Choice(Block(4), 0.95), Device().curve(size, (0.3, 0.9)))
    alone = learned.guess(size, Choice(Block(4), 0.95), [])
    assert beyond is not None and alone is not None
    assert beyond.interval_s[1] / beyond.seconds == pytest.approx(alone.interval_s[1] / alone.seconds)
    far = learned.guess("1e9", Choice(Block(4), 0.95), [])
    assert far is not None and not far.in_domain


def test_what_no_kernel_serves_has_no_time() -> None:
    device = Device()
    curves = [(f"{size}", device.curve(f"{size}", (0.3, 0.5, 0.9))) for size in np.linspace(1e4, 1e5, 8)]
    learned = Learned.fit(curves, device.describe)
    unserved = [Known(Choice(Block(4), 0.3), 1.0, "none")]
    assert learned.guess("20000.0", Choice(Block(4), 0.5), unserved) is None
