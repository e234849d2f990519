"""Every metric against a plain one, worked out on the samples of each resample one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.metric import METRICS
from hwsparse.sparsify import scores
from hwsparse.sparsify.scores import SCORERS


def plain_share(outputs: np.ndarray, labels: np.ndarray) -> float:
    return sum(int(np.argmax(row)) == label for row, label in zip(outputs, labels, strict=True)) / len(labels)


def plain_f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """As scikit-learn's f1_score with average="macro": over the union of labels and answers."""
    answers = [int(np.argmax(row)) for row in outputs]
    found = []
    for each in {*answers, *labels.tolist()}:
        both = sum(answer == label == each for answer, label in zip(answers, labels, strict=True))
        precision = both / answers.count(each) if each in answers else 0.0
        recall = both / labels.tolist().count(each) if each in labels else 0.0
        found.append(2 * precision * recall / (precision + recall) if both else 0.0)
    return sum(found) / len(found)


def plain_log_probability(outputs: np.ndarray, labels: np.ndarray) -> float:
    total = 0.0
    for row, label in zip(outputs.tolist(), labels.tolist(), strict=True):
        highest = max(row)
        total += row[label] - highest - math.log(sum(math.exp(value - highest) for value in row))
    return total / len(labels)


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 by counting: as many as are lower, and half of the others that are equal."""
    lower = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(lower + (equal - 1) / 2)


def pearson_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(set(a.tolist())) > 1 and len(set(b.tolist())) > 1 else 0.0


def cosines(outputs: np.ndarray) -> np.ndarray:
    return np.array([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(outputs[::2], outputs[1::2], strict=True)])


PLAIN: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": plain_share,
    "agreement": plain_share,
    "f1": plain_f1,
    "neg_log_loss": plain_log_probability,
    "pearson": lambda outputs, labels: pearson_of(cosines(outputs), labels),
    "spearman": lambda outputs, labels: pearson_of(midranks(cosines(outputs)), midranks(labels)),
    "pair_agreement": lambda outputs, labels: pearson_of(midranks(cosines(outputs)), midranks(labels)),
}


def drawn_and_counts(samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some resamples, as the samples drawn and as how often each was."""
    drawn = rng.integers(0, samples, (4, samples))
    return drawn, np.stack([np.bincount(row, minlength=samples) for row in drawn]).astype(np.float64)


def pairs_at(angles: np.ndarray) -> np.ndarray:
    """Embeddings of pairs that lie so far apart, of different lengths."""
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 3
    return np.stack([first, np.tile([0.5, 0], (len(angles), 1))], axis=1).reshape(-1, 2)


def test_there_is_one_for_every_metric() -> None:
    assert set(SCORERS) == set(PLAIN) == set(METRICS)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.kind == "classes"])
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_classes(name: str, samples: int, classes: int, seed: int, ties: bool) -> None:
    """Few samples of many classes: in most resamples some class is absent."""
    rng = np.random.default_rng(seed)
    outputs = rng.integers(-3, 0, (samples, classes)) if ties else rng.uniform(-20, -1, (samples, classes))
    labels = rng.integers(0, classes, samples)
    drawn, counts = drawn_and_counts(samples, rng)
    found = SCORERS[name](outputs.astype(np.float64), labels)(counts)
    expected = [PLAIN[name](outputs[row].astype(np.float64), labels[row]) for row in drawn]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.kind == "pairs"])
@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_pairs(name: str, samples: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    angles = rng.integers(0, 4, samples) / 4 if ties else rng.random(samples) * 3
    labels = rng.integers(0, 3, samples) / 3
    drawn, counts = drawn_and_counts(samples, rng)
    outputs = pairs_at(angles)
    found = SCORERS[name](outputs, labels)(counts)
    # Equal angles give equal cosines, whatever their last bit.
    expected = [PLAIN[name](outputs.reshape(-1, 4)[row].reshape(-1, 2), labels[row]) for row in drawn]
    np.testing.assert_allclose(found, expected, atol=1e-7)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_ranks_in_resamples_are_those_of_the_samples_drawn(values: list[int], seed: int) -> None:
    drawn, counts = drawn_and_counts(len(values), np.random.default_rng(seed))
    for row, found in zip(drawn, scores.ranking(np.array(values))(counts), strict=True):
        np.testing.assert_array_equal(found[row], midranks(np.array(values)[row]))


WHOLE = np.ones((1, 4))


@pytest.mark.parametrize(
    ("answers", "labels", "value"),
    [
        ([0, 1, 2, 2], [0, 1, 2, 2], 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # one class is all there is
        ([1, 1, 1, 1], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], (2 / 3 + 0) / 2),
        ([3, 0, 0, 1], [0, 0, 1, 1], (0.5 + 2 / 3 + 0) / 3),  # a class that is nobody's label counts where answered
    ],
)
def test_f1_by_hand(answers: list[int], labels: list[int], value: float) -> None:
    outputs = np.eye(5)[answers]
    assert scores.f1(outputs, np.array(labels))(WHOLE) == pytest.approx([value])


def test_log_loss_of_probabilities_and_of_logits() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.9, 0], [0, 0.5, 0.5], [1, 0, 0]])
    labels = np.array([0, 1, 2, 0])
    expected = np.log(probabilities[range(4), labels]).mean()
    assert scores.neg_log_loss(probabilities, labels)(WHOLE) == pytest.approx([expected])
    logits = np.log(np.maximum(probabilities, 1e-9)) + 7
    assert scores.neg_log_loss(logits, labels)(WHOLE) == pytest.approx([expected])
    never = scores.neg_log_loss(probabilities, np.array([0, 2, 0, 1]))(WHOLE)
    assert np.isfinite(never).all() and never < -10  # what was held to be impossible costs much, but not everything


@pytest.mark.parametrize("score", [scores.pearson, scores.spearman])
def test_what_never_varies_correlates_with_nothing(score: Callable[..., scores.Scorer]) -> None:
    labels = np.array([0.1, 0.7, 0.7, 0.9])
    alike, apart = pairs_at(np.full(4, 0.3)), pairs_at(np.array([0.1, 0.2, 0.4, 0.8]))
    one_pair = np.array([[0, 0, 4.0, 0]])
    assert score(alike, labels)(WHOLE) == 0
    assert score(apart, np.full(4, 0.1))(WHOLE) == 0
    assert score(apart, labels)(one_pair) == 0
    assert score(apart, labels)(np.array([[0, 2.0, 2, 0]])) == 0  # labels that tie in this resample alone
    assert score(apart, -labels)(WHOLE) > 0.5


def test_correlations_are_of_size_at_most_one() -> None:
    labels = np.cos(np.array([0.1, 0.2, 0.3, 0.4])) * 3 + 1
    assert scores.pearson(pairs_at(np.array([0.1, 0.2, 0.3, 0.4])), labels)(WHOLE) == pytest.approx([1], abs=1e-12)
    assert scores.pearson(pairs_at(np.array([0.1, 0.2, 0.3, 0.4])), -labels)(WHOLE) >= -1
