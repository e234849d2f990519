"""The quality of plans that were not tried, told from those that were.

What layers harm adds up, each layer's relative output error times a coefficient; quality falls along a logistic curve
in the logarithm of that sum, from the best seen to the worst. Coefficients, and the curve's place and steepness, are
those of the greatest posterior, near 1 unless trials say otherwise: SPDY (Frantar and Alistarh, ICML 2022) finds such
coefficients by trying some at random for one latency; here every trial, of whatever latency, tells of all of them.

What the curve misses, a Gaussian process tells: it may have another shape, for all plans of so much harm; and plans
that harm the same layers are missed by the same, the more the steeper the curve is there. Where quality hardly changes
with harm, little is unknown.

Knows no plans and no Optuna: plans are rows of errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

# Standard deviations, before anything is seen: of a coefficient's logarithm; of the curve's place, in the logarithm of
# harm, and of its steepness's logarithm around 0.5; of its depth around 1.05, in what was seen of it.
COEFFICIENT, PLACE, STEEPNESS, DEPTH = 0.4, 2.0, 0.5, 0.1
USUAL_STEEPNESS, USUAL_DEPTH = 0.5, 1.05
# What a sum is off by, as a logarithm: between the least and the most, as trials show. Plans whose harm differs by this
# share of it have little in common.
ROUGHNESS, REACH = (0.03, 0.3), 0.5
# What the curve's shape is off by, in the span of quality seen, and how far that reaches, in the logarithm of harm;
# what is each plan's own.
SHAPE, SHAPE_REACH, OWN = 0.005, 1.0, 0.001
STEPS, LEAST_GAIN, MOST_DAMPING = 25, 1e-3, 1e8
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class QualityModel:
    """What trials tell; made by `fit`. L layers, n trials that harm something."""

    best: float
    span: float  # between the best and the worst that was seen
    point: np.ndarray  # logarithms of coefficients, then the curve's place, log steepness and depth (L + 3,)
    _root: np.ndarray  # of the posterior's covariance (L + 3, L + 3)
    _roughness: float
    _errors: np.ndarray  # (n, L)
    _slopes: np.ndarray  # of the curve at the trials (n,)
    _inverse: np.ndarray  # of what trials are missed by in common (n, n)
    _weights: np.ndarray  # (n,)

    @classmethod
    def fit(cls, errors: np.ndarray, qualities: np.ndarray) -> QualityModel:
        """Learns from trials.

        Args:
            errors: relative output errors (n, L), one row of zeros, the dense network's, among them.
            qualities: (n,)
        """
        best = float(qualities.max())
        harmed = errors.sum(1) > 0
        errors, qualities = errors[harmed], qualities[harmed]
        span = max(best - float(qualities.min(initial=best)), 1e-6)
        prior = _Prior.of(errors, (best - qualities) / span)
        roughness = sum(ROUGHNESS) / 2
        for _ in range(2):
            point, fall, slopes = _most_likely(prior, errors, (best - qualities) / span, roughness)
            missed = (best - qualities) / span - fall
            steep = slopes > slopes.max(initial=0) / 4
            off = np.sqrt(np.mean((missed[steep] / slopes[steep]) ** 2)) if steep.any() else 0.0
            roughness = float(np.clip(off, *ROUGHNESS))
        _, jacobian = _curve(point, errors)
        noise = np.hypot(slopes * roughness, SHAPE)[:, None]
        precision = (jacobian / noise).T @ (jacobian / noise) + np.diag(prior.deviations**-2.0)
        coefficients = np.exp(point[:-3])
        common = _common((errors, slopes), (errors, slopes), coefficients, roughness)
        inverse = np.linalg.inv(common + OWN**2 * np.eye(len(errors)))
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        return cls(best, span, point, root, roughness, errors, slopes, inverse, inverse @ missed)

    @property
    def coefficients(self) -> np.ndarray:
        """The likeliest (L,)."""
        found: np.ndarray = np.exp(self.point[:-3])
        return found

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Points (count, L + 3) as likely as the posterior says: what `point` is, of other coefficients."""
        found: np.ndarray = self.point + rng.standard_normal((count, len(self.point))) @ self._root.T
        return found

    def predict(self, errors: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Qualities of plans (m,) and their standard deviations (m,).

        Args:
            errors: (m, L)
            points: that `draw` gave, to average over.
        """
        place, steepness, depth = points[:, -3], np.exp(points[:, -2]), points[:, -1]
        harm = np.log(np.maximum(errors @ np.exp(points[:, :-3].T), TINY))
        share = _logistic(steepness * (harm - place))
        falls, slopes = depth * share, (depth * steepness * share * (1 - share)).mean(1)
        near = _common((errors, slopes), (self._errors, self._slopes), self.coefficients, self._roughness)
        told = (near @ self._inverse * near).sum(1)
        unknown = (slopes * self._roughness) ** 2 + SHAPE**2 - told
        means = self.best - self.span * (falls.mean(1) + near @ self._weights)
        return means, self.span * np.sqrt(falls.var(1) + np.maximum(unknown, 0))


@dataclass(frozen=True, slots=True)
class _Prior:
    means: np.ndarray
    deviations: np.ndarray

    @classmethod
    def of(cls, errors: np.ndarray, falls: np.ndarray) -> _Prior:
        """The curve falls half-way where a trial did, or nearly."""
        layers = errors.shape[1]
        half = np.log(errors[np.argmin(np.abs(falls - 0.5))].sum()) if len(falls) else 0.0
        return cls(
            np.array([*np.zeros(layers), half, USUAL_STEEPNESS, USUAL_DEPTH]),
            np.array([*np.full(layers, COEFFICIENT), PLACE, STEEPNESS, DEPTH]),
        )


def _most_likely(
    prior: _Prior, errors: np.ndarray, falls: np.ndarray, roughness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The point of the greatest posterior, by Levenberg's and Marquardt's method; falls there, and their slopes."""
    point, damping = prior.means, 1e-2
    fitted, jacobian = _curve(point, errors)

    def cost(found: np.ndarray, at: np.ndarray) -> float:
        return float((((found - falls) / noise) ** 2).sum() + (((at - prior.means) / prior.deviations) ** 2).sum())

    for _ in range(STEPS):
        noise = np.hypot(_slopes(jacobian) * roughness, SHAPE)
        scaled = jacobian / noise[:, None]
        curvature = scaled.T @ scaled + np.diag(prior.deviations**-2.0)
        gradient = scaled.T @ ((fitted - falls) / noise) + (point - prior.means) / prior.deviations**2
        before = cost(fitted, point)
        while damping < MOST_DAMPING:
            moved = point - np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
            there = _curve(moved, errors)
            if cost(there[0], moved) < before:
                break
            damping *= 5
        else:
            break
        gain = before - cost(there[0], moved)
        point, (fitted, jacobian), damping = moved, there, max(damping / 5, 1e-8)
        if gain < LEAST_GAIN * before:
            break
    return point, fitted, _slopes(jacobian)


def _curve(point: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What plans fall by (n,), in spans, and its derivatives (n, L + 3)."""
    place, steepness, depth = point[-3], np.exp(point[-2]), point[-1]
    parts = errors * np.exp(point[:-3])
    sums = np.maximum(parts.sum(1), TINY)
    distance = np.log(sums) - place
    share = _logistic(steepness * distance)
    slope = depth * steepness * share * (1 - share)
    jacobian = np.column_stack([slope[:, None] * parts / sums[:, None], -slope, slope * distance, share])
    return depth * share, jacobian


def _slopes(jacobian: np.ndarray) -> np.ndarray:
    """What plans fall by for a logarithm of harm more."""
    found: np.ndarray = np.abs(jacobian[:, -3])
    return found


def _logistic(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return found


def _common(
    some: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray],
    coefficients: np.ndarray,
    roughness: float,
) -> np.ndarray:
    """Covariances (m, n) of what some plans and others are missed by; plans are errors (m, L) and slopes (m,)."""
    parts, others_parts = some[0] * coefficients, others[0] * coefficients
    harm, others_harm = (np.maximum(each.sum(1), TINY) for each in (parts, others_parts))
    differ = cdist(parts, others_parts, "cityblock") / np.maximum.outer(harm, others_harm)
    farther = np.abs(np.subtract.outer(np.log(harm), np.log(others_harm)))
    steep = roughness**2 * np.outer(some[1], others[1]) * np.exp(-differ / REACH)
    found: np.ndarray = steep + SHAPE**2 * np.exp(-farther / SHAPE_REACH)
    return found
