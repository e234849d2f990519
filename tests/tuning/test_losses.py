"""Losses of batches against float64 numpy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.tuning.losses import directions, hints, labelled_classes, labelled_pairs, soft_targets


def answers(seed: int, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, width)) * 3, rng.standard_normal((rows, width)) * 3


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_soft_targets(seed: int, temperature: float) -> None:
    own, dense = answers(seed, 6, 5)
    p, q = (log_softmax(each / temperature) for each in (dense, own))
    wanted = temperature**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=1))
    found = soft_targets(torch.from_numpy(own), torch.from_numpy(dense), temperature)
    np.testing.assert_allclose(found.item(), wanted, rtol=1e-9, atol=1e-12)
    assert abs(soft_targets(torch.from_numpy(dense), torch.from_numpy(dense), temperature).item()) < 1e-9


@given(st.integers(0, 1000))
def test_directions_and_labels(seed: int) -> None:
    own, dense = answers(seed, 8, 5)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, dense)]
    found = directions(torch.from_numpy(own), torch.from_numpy(dense), 4.0)
    np.testing.assert_allclose(found.item(), np.mean(1 - np.sum(unit[0] * unit[1], axis=1)), rtol=1e-9)
    labels = np.arange(8) % 5
    found = labelled_classes(torch.from_numpy(own), torch.from_numpy(labels))
    np.testing.assert_allclose(found.item(), -log_softmax(own)[np.arange(8), labels].mean(), rtol=1e-9)
    scores = np.array([0.1, 0.9, 0.4, 0.3])
    cosines = np.sum(unit[0][0::2] * unit[0][1::2], axis=1)
    found = labelled_pairs(torch.from_numpy(own), torch.from_numpy(scores))
    np.testing.assert_allclose(found.item(), 1 - np.corrcoef(cosines, scores)[0, 1], rtol=1e-7)


def test_hints_are_relative_errors() -> None:
    rng = np.random.default_rng(0)
    dense = [rng.standard_normal((2, 3, 4)), 100 * rng.standard_normal((2, 5))]
    own = [each + 0.1 * rng.standard_normal(each.shape) for each in dense]
    wanted = np.mean([np.sum((a - b) ** 2) / np.sum(b**2) for a, b in zip(own, dense, strict=True)])
    found = hints([torch.from_numpy(each) for each in own], [torch.from_numpy(each) for each in dense])
    np.testing.assert_allclose(found.item(), wanted, rtol=1e-9)
    assert hints([torch.zeros(2)], [torch.zeros(2)]).item() == 0


def test_equal_scores_are_no_division_by_zero() -> None:
    own, _ = answers(0, 4, 5)
    found = labelled_pairs(torch.from_numpy(own).requires_grad_(), torch.tensor([0.5, 0.5]))
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == 1
