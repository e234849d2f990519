"""The model of quality, on networks whose quality is a curve of a weighted sum of harm."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.search.quality_model import QualityModel

LAYERS = 20


class Network:
    """Quality falls from 0.9 to 0.1; layers count for more or less than their errors say."""

    def __init__(self, seed: int, spread: float = 0.4) -> None:
        self.rng = np.random.default_rng(seed)
        self.coefficients = np.exp(self.rng.normal(scale=spread, size=LAYERS))

    def errors(self, count: int) -> np.ndarray:
        depth = self.rng.uniform(0.001, 0.2, (count, 1))
        return depth * self.rng.uniform(0, 1, (count, LAYERS)) ** 3

    def quality(self, errors: np.ndarray) -> np.ndarray:
        harm = errors @ self.coefficients
        return 0.9 - 0.8 * harm**1.6 / (harm**1.6 + 0.5**1.6)


def trials(network: Network, count: int) -> tuple[np.ndarray, np.ndarray]:
    errors = np.concatenate([np.zeros((1, LAYERS)), network.errors(count)])
    return errors, network.quality(errors)


@pytest.mark.parametrize("seed", range(3))
def test_new_plans_are_told_within_what_it_says(seed: int) -> None:
    network = Network(seed)
    model = QualityModel.fit(*trials(network, 60))
    errors = network.errors(200)
    truth = network.quality(errors)
    means, deviations = model.predict(errors, model.draw(np.random.default_rng(0), 12))
    assert np.corrcoef(means, truth)[0, 1] > 0.98
    assert np.abs(means - truth).mean() < 0.02
    assert (np.abs(means - truth) < 2 * deviations).mean() > 0.85


def test_coefficients_are_learned() -> None:
    network = Network(1, spread=0.6)
    few, many = (QualityModel.fit(*trials(network, count)) for count in (5, 150))
    told = [np.corrcoef(np.log(model.coefficients), np.log(network.coefficients))[0, 1] for model in (few, many)]
    assert told[1] > 0.8 > told[0]


def test_what_was_tried_is_told_as_it_was() -> None:
    errors, qualities = trials(Network(2), 30)
    model = QualityModel.fit(errors, qualities)
    means, deviations = model.predict(errors, np.stack([model.point]))
    assert means == pytest.approx(qualities, abs=0.01)
    assert deviations.max() < 0.01


def test_without_a_trial_that_harms_nothing_is_lost_yet() -> None:
    model = QualityModel.fit(np.zeros((1, LAYERS)), np.array([0.9]))
    means, deviations = model.predict(Network(0).errors(5), model.draw(np.random.default_rng(0), 4))
    assert np.isfinite(means).all() and np.isfinite(deviations).all()
    assert (model.coefficients == 1).all()


def test_equal_qualities_and_harm_of_any_size_are_borne() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-9, 1.0, 1e6):
        errors = np.concatenate([np.zeros((1, LAYERS)), scale * rng.uniform(size=(8, LAYERS))])
        for qualities in (np.full(9, 0.5), rng.uniform(size=9)):
            model = QualityModel.fit(errors, qualities)
            means, deviations = model.predict(errors, model.draw(rng, 4))
            assert np.isfinite(means).all() and np.isfinite(deviations).all()
