"""What is learned of layers' choices, on a device whose law is known but for what each layer is off by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwsparse.latency.learned import WIDEST, Known, Learned, conformal
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from hwsparse.work import Work
from tests.latency.test_predictor import layer_work, seconds

RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


class Device:
    """Layers are called by their sizes; each is off from the law by a factor of its own, that turns with the ratio."""

    def describe(self, signature: str, choice: Choice, kernel: str | None) -> Work | None:
        return None if kernel == "none" else layer_work(float(signature), choice.ratio)

    def takes(self, signature: str, ratio: float) -> float:
        work = self.describe(signature, Choice(Block(4), ratio), "k")
        assert work is not None
        return seconds(work) * (1 + 0.3 * math.sin(float(signature) + ratio))

    def known(self, signature: str, ratios: tuple[float, ...] = RATIOS) -> list[Known]:
        return [Known(Choice(Block(4), ratio), self.takes(signature, ratio), "k") for ratio in ratios]

    def choices(self, ratios: tuple[float, ...] = RATIOS) -> list[Choice]:
        return [Choice(Block(4), ratio) for ratio in ratios]


DEVICE = Device()


def sizes(count: int, seed: int) -> list[str]:
    return [f"{size:.1f}" for size in np.exp(np.random.default_rng(seed).uniform(math.log(1e4), math.log(1e6), count))]


@pytest.fixture(scope="module")
def learned() -> Learned:
    return Learned.fit({size: DEVICE.known(size) for size in sizes(40, 0)}, DEVICE.describe)


def test_a_layers_own_measurements_correct_what_is_predicted_of_its_other_choices(learned: Learned) -> None:
    size = next(str(size) for size in range(123456, 124000) if math.sin(size + 0.6) > 0.99)
    guess = learned.guess(size, Choice(Block(4), 0.6), DEVICE.known(size, (0.3, 0.9)))
    assert guess is not None and guess.in_domain
    assert guess.seconds == pytest.approx(DEVICE.takes(size, 0.6), rel=0.05)
    alone = learned.guess(size, Choice(Block(4), 0.6), [])
    assert alone is not None
    assert abs(alone.seconds / DEVICE.takes(size, 0.6) - 1) > 0.1
    assert guess.interval_s[1] / guess.seconds < alone.interval_s[1] / alone.seconds


def test_intervals_hold_nine_out_of_ten_of_layers_never_seen(learned: Learned) -> None:
    alone, beside = [], []
    for size in sizes(80, 1):
        for ratio in (0.4, 0.6, 0.85):
            truth = DEVICE.takes(size, ratio)
            for known, held in (([], alone), (DEVICE.known(size, (0.3, 0.7)), beside)):
                guess = learned.guess(size, Choice(Block(4), ratio), known)
                assert guess is not None
                held.append(guess.interval_s[0] <= truth <= guess.interval_s[1])
    assert 0.8 <= np.mean(alone) <= 0.99
    assert 0.8 <= np.mean(beside) <= 0.995


def test_of_a_layer_like_no_other_nothing_is_known_until_some_of_it_is_measured(learned: Learned) -> None:
    far = learned.guess("1e9", Choice(Block(4), 0.8), [])
    assert far is not None and not far.in_domain
    assert math.log(far.interval_s[1] / far.seconds) > 1
    some = learned.guess("1e9", Choice(Block(4), 0.8), DEVICE.known("1e9", (0.3, 0.9)))
    assert some is not None
    assert some.seconds == pytest.approx(DEVICE.takes("1e9", 0.8), rel=0.3)
    # No layer like no other was among those learned from, to tell how far off that is.
    assert math.log(some.interval_s[1] / some.seconds) == pytest.approx(WIDEST) and not some.in_domain
    odd = {size: DEVICE.known(size) for size in (*sizes(40, 0), "1.0", "1e8", "1e9")}
    wiser = Learned.fit(odd, DEVICE.describe).guess("1e11", Choice(Block(4), 0.8), DEVICE.known("1e11", (0.3, 0.9)))
    assert wiser is not None and wiser.in_domain
    assert math.log(wiser.interval_s[1] / wiser.seconds) < 0.5 * WIDEST


def test_what_is_measured_makes_the_rest_as_sure_as_is_asked(learned: Learned) -> None:
    counts = []
    for within in (0.5, 0.2, 0.1):
        chosen = learned.wanted("123456.7", DEVICE.choices(), [], within)
        counts.append(len(chosen))
        known = DEVICE.known("123456.7", tuple(choice.ratio for choice in chosen))
        for choice in DEVICE.choices():
            guess = learned.guess("123456.7", choice, known)
            assert guess is not None
            if choice not in chosen:
                assert guess.interval_s[1] / guess.seconds - 1 <= within + 1e-9
    assert counts == sorted(counts) and counts[0] < counts[-1] <= len(RATIOS)


def test_what_is_known_is_not_measured_again(learned: Learned) -> None:
    chosen = learned.wanted("123456.7", DEVICE.choices(), [], 0.1)
    known = DEVICE.known("123456.7", tuple(choice.ratio for choice in chosen))
    assert learned.wanted("123456.7", DEVICE.choices(), known, 0.1) == []


def test_dense_is_always_measured(learned: Learned) -> None:
    assert learned.wanted("123456.7", [Choice(), *DEVICE.choices()], [], 1.0)[:1] == [Choice()]


def test_what_no_kernel_serves_has_no_time_and_is_not_wanted(learned: Learned) -> None:
    unserved = [Known(Choice(Block(4), 0.3), 1.0, "none")]
    assert learned.guess("20000.0", Choice(Block(4), 0.5), unserved) is None
    assert learned.wanted("20000.0", [Choice(Block(4), 0.5)], unserved, 0.1) == []


def test_too_few_examples_to_tell_an_interval_say_nothing() -> None:
    few = Learned.fit({size: DEVICE.known(size, (0.5,)) for size in sizes(6, 0)}, DEVICE.describe)
    guess = few.guess("50000.0", Choice(Block(4), 0.5), [])
    assert guess is not None
    assert math.log(guess.interval_s[1] / guess.seconds) == pytest.approx(WIDEST)


def test_the_conformal_error_is_the_one_of_its_rank() -> None:
    """Of n + 1 exchangeable errors, the last lies below the k-th smallest of n with probability k / (n + 1)."""
    assert conformal([[float(error)] for error in range(1, 20)]) == 18.0
    assert conformal([[1.0]] * 8) == math.inf
    assert conformal([]) == math.inf


def test_every_group_of_errors_counts_alike() -> None:
    """Of ten groups one is off by much, in each of its many errors: nine in ten groups are not."""
    groups = [[1.0, 2.0] for _ in range(9)] + [[9.0] * 100]
    assert conformal(groups) == 9.0
    assert conformal([[1.0, 2.0] for _ in range(99)] + [[9.0] * 100]) == 2.0
    assert conformal([[1.0, 2.0], [9.0] * 8]) == 9.0
