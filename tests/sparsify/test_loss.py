"""Losses against torch's and numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hwsparse.metric import METRICS
from hwsparse.sparsify.loss import (
    DIVERGENCES,
    LOSSES,
    cosine_distance,
    cross_entropy,
    decorrelation,
    kullback_leibler,
)


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((7, 5)).astype(np.float32) * 3


def softmax(values: np.ndarray) -> np.ndarray:
    return np.asarray(functional.softmax(torch.from_numpy(values), dim=1).numpy())


def test_there_is_one_for_every_metric() -> None:
    assert set(LOSSES) == set(DIVERGENCES) == set(METRICS)


@pytest.mark.parametrize("given", [lambda x: x, softmax, lambda x: x + 100], ids=["logits", "probabilities", "shifted"])
def test_cross_entropy_is_torchs(given: object) -> None:
    values, labels = logits(0), np.arange(7) % 5
    expected = functional.cross_entropy(torch.from_numpy(values), torch.from_numpy(labels)).item()
    assert cross_entropy(given(values), labels) == pytest.approx(expected, rel=1e-5)  # type: ignore[operator]


def test_divergence_is_torchs() -> None:
    before, after = (functional.log_softmax(torch.from_numpy(logits(seed)), dim=1) for seed in (0, 1))
    expected = functional.kl_div(after, before, reduction="batchmean", log_target=True).item()
    assert kullback_leibler(logits(0), logits(1)) == pytest.approx(expected, rel=1e-5)
    assert kullback_leibler(softmax(logits(0)), softmax(logits(1))) == pytest.approx(expected, rel=1e-4)
    assert kullback_leibler(logits(0), logits(0)) == 0


def test_decorrelation_is_one_minus_pearsons_correlation() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.standard_normal((12, 4)), rng.standard_normal(6)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    assert decorrelation(vectors, labels) == pytest.approx(1 - np.corrcoef(cosines, labels)[0, 1])
    assert decorrelation(np.ones((12, 4)), labels) == pytest.approx(1)  # what never varies tells nothing


def test_cosine_distance() -> None:
    a = np.array([[1.0, 0], [0, 2]])
    assert cosine_distance(a, a * 3) == pytest.approx(0)
    assert cosine_distance(a, a[::-1]) == pytest.approx(1)
    assert np.isfinite(cosine_distance(a, np.zeros((2, 2))))
