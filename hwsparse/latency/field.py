"""How far off a law is at one place, from how far off it is nearby: a Gaussian process over places.

What lies near each other is off alike (kriging; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
chapter 2, with Matérn's kernel). How near is learned from groups of places that have nothing to do with each
other. Knows no layers and no seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # to import it takes a second
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

# Variances and lengths that a fit starts from and stays between.
SHARED, APART, VARYING = ((0.003, (1e-6, 1.0)),) * 3
NOISE, LENGTH = (1e-4, (1e-5, 1e-2)), (2.0, (0.1, 100.0))
# What differs in the first coordinate, a step of which is 1, has nothing of `apart` in common; all else has all of it.
NEAR, FAR = 0.1, 1e4
# Deviations bend, but do not break: of smoothness 1/2, 3/2 and 5/2, the second makes those of ResNet-50's, MiniLM's and
# EfficientNet-Lite0's layers likeliest.
SMOOTHNESS = 1.5
# The variance of what all places of a group share, where nothing about the group is known: a factor of e^2.
VAGUE = 4.0
# Degrees of freedom, beyond two, of groups' variances: the fewer, the sooner its own deviations tell how uneven one is.
FREEDOM = 8.0


@dataclass(frozen=True, slots=True)
class Field:
    """Deviations are one that a group's places share, one for each first coordinate, one that varies, and noise."""

    shared: float
    apart: float
    varying: float
    lengths: tuple[float, ...]  # along each coordinate: what lies much farther apart than this is off independently
    noise: float

    @classmethod
    def fit(cls, groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Field:
        """The field that makes all groups' deviations likeliest.

        Args:
            groups: places, (count, coordinates), and how far off each is, (count,); at least one group.
        """
        from scipy.optimize import minimize

        coordinates = groups[0][0].shape[1]
        start = cls(SHARED[0], APART[0], VARYING[0], (LENGTH[0],) * coordinates, NOISE[0])
        processes = [start._process().fit(*group) for group in groups]

        def unlikeliness(theta: np.ndarray) -> tuple[float, np.ndarray]:
            found = [each.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False) for each in processes]
            return -sum(value for value, _ in found), -np.sum([slope for _, slope in found], axis=0)

        kernel = processes[0].kernel_
        best = minimize(unlikeliness, kernel.theta, jac=True, method="L-BFGS-B", bounds=kernel.bounds)
        shared, apart, varying, *lengths, noise = map(float, np.exp(best.x))
        return cls(shared, apart, varying, tuple(lengths), noise)

    def estimate(
        self, places: np.ndarray, known: np.ndarray, deviations: np.ndarray, vague: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest deviations at places of a group, and their standard deviations: (places,) each.

        Args:
            known: the group's places where it is known, (count, coordinates); may be none.
            deviations: how far off it is there, (count,).
            vague: nothing is known of what the group's places share but what is known here.
        """
        if len(known) == 0:
            return np.zeros(len(places)), self.spreads(places, known, vague)
        means = self._process(vague).fit(known, deviations).predict(places)
        return means, self.unevenness(known, deviations, vague) * self.spreads(places, known, vague)

    def spreads(self, places: np.ndarray, known: np.ndarray, vague: bool = False) -> np.ndarray:
        """Standard deviations (places,) where so many are known, in a group like most, whatever it is off by there."""
        process = self._process(vague)
        if len(known) == 0:
            return np.asarray(np.sqrt(process.kernel.diag(places)))
        _, spreads = process.fit(known, np.zeros(len(known))).predict(places, return_std=True)
        return np.asarray(spreads)

    def unevenness(self, known: np.ndarray, deviations: np.ndarray, vague: bool = False) -> float:
        """How much more uneven a group is than most, as what is known of it shows: a factor of standard deviations.

        That of a Student process, of which a group's own variance is drawn from an inverse gamma distribution (Shah,
        Wilson and Ghahramani, AISTATS 2014, equation 8).
        """
        if len(known) == 0:
            return 1.0
        surprise = float(deviations @ np.linalg.solve(self._kernel(vague)(known), deviations))
        return math.sqrt((FREEDOM + surprise) / (FREEDOM + len(known)))

    def most_telling(self, places: np.ndarray, known: Sequence[int], vague: bool = False) -> int:
        """Which place to look at next: where least is known; the first is the one that tells most of all others."""
        if not known:
            alike = self._kernel(vague)(places)
            return int(np.argmax((alike**2).sum(axis=1)))
        spreads = self.spreads(places, places[list(known)], vague)
        spreads[list(known)] = 0
        return int(np.argmax(spreads))

    def _kernel(self, vague: bool) -> Kernel:
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        shared = ConstantKernel(VAGUE if vague else self.shared, SHARED[1])
        along = (NEAR, *(FAR for _ in self.lengths[1:]))
        apart = ConstantKernel(self.apart, APART[1]) * Matern(along, "fixed", nu=SMOOTHNESS)
        varying = ConstantKernel(self.varying, VARYING[1]) * Matern(self.lengths, LENGTH[1], nu=SMOOTHNESS)
        return shared + apart + varying + WhiteKernel(self.noise, NOISE[1])

    def _process(self, vague: bool = False) -> GaussianProcessRegressor:
        from sklearn.gaussian_process import GaussianProcessRegressor

        return GaussianProcessRegressor(self._kernel(vague), optimizer=None)
