"""A search space as arrays, and the plans that are best where latency and harm are sums over layers.

Latency is the sum of the layers' latencies; harm that of their relative output errors, each weighted by a coefficient,
1 unless more is known. For a multiplier x, the plan with the least `latency + x * harm` takes in each layer the option
that is least there; as x falls from infinity to 0, a layer steps down the lower convex hull of its options. All the
layers' steps, sorted by what they gain per harm, give every such plan, with no grid of multipliers to choose (the
Lagrangian relaxation of the multiple-choice knapsack problem: Sinha and Zoltners, Operations Research 27(3), 1979). A
coefficient scales all of a layer's harm, and so leaves its hull as it is and only moves its steps.

A plan is a row: for each layer with something to choose, the place of its option. Knows no Optuna.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from hwsparse.plan import Plan
from hwsparse.search.space import LayerOptions, Option, SearchSpace


class Additive:
    """What every option takes and harms; L layers have something to choose."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self.layers = space.free
        self.counts = np.array([len(layer.options) for layer in self.layers], np.int64)
        self._places = {layer.layer: {text: at for at, text in enumerate(layer.texts)} for layer in self.layers}
        shape = len(self.layers), max(self.counts, default=0)
        self._latencies, self._errors = np.zeros(shape), np.zeros(shape)
        for at, layer in enumerate(self.layers):
            self._latencies[at, : self.counts[at]] = [option.latency_s for option in layer.options]
            self._errors[at, : self.counts[at]] = [option.error for option in layer.options]
        self._rest_s = sum(layer.options[0].latency_s for layer in space.layers if len(layer.options) == 1)
        hulls = [lower_hull(layer) for layer in self.layers]
        self._hulls = [
            np.array([layer.options.index(option) for option in hull])
            for layer, hull in zip(self.layers, hulls, strict=True)
        ]
        self._neighbours = np.stack([self._stepped(step) for step in (-1, 1)])
        self._on_hulls = np.zeros((len(hulls), max(map(len, hulls), default=0)), np.int64)
        for at, places in enumerate(self._hulls):
            self._on_hulls[at, : len(places)] = places
        steps = [(at, _gain(*pair)) for at, hull in enumerate(hulls) for pair in itertools.pairwise(hull)]
        self._step_layers = np.array([at for at, _ in steps], np.int64)
        self._step_gains = np.array([gain for _, gain in steps])

    def _stepped(self, step: int) -> np.ndarray:
        """For each layer and option the place of the one so many steps along the layer's hull (L, options)."""
        found = np.zeros(self._latencies.shape, np.int64)
        for at, hull in enumerate(self._hulls):
            # An option off the hull is taken for the one that is as fast.
            places = np.searchsorted(-self._latencies[at, hull], -self._latencies[at])
            found[at] = hull[np.clip(places + step, 0, len(hull) - 1)]
        return found

    def latencies(self, rows: np.ndarray) -> np.ndarray:
        """Of plans (n, L) the sums over all layers, in seconds (n,)."""
        sums: np.ndarray = self._rest_s + self._latencies[np.arange(rows.shape[1]), rows].sum(1)
        return sums

    def errors(self, rows: np.ndarray) -> np.ndarray:
        """Of plans (n, L) each layer's relative output error (n, L)."""
        found: np.ndarray = self._errors[np.arange(rows.shape[1]), rows]
        return found

    def front(self, coefficients: np.ndarray | None = None) -> np.ndarray:
        """Every plan that is best for some multiplier (n, L), from the most accurate to the fastest.

        Args:
            coefficients: what harm to each layer counts for (L,), above 0.
        """
        gains = self._step_gains if coefficients is None else self._step_gains / coefficients[self._step_layers]
        # Stable: a layer's own steps, of falling gain, stay in order.
        order = np.argsort(-gains, kind="stable")
        stepped = np.zeros((len(order) + 1, len(self.layers)), np.int64)
        stepped[np.arange(1, len(order) + 1), self._step_layers[order]] = 1
        rows: np.ndarray = self._on_hulls[np.arange(len(self.layers)), stepped.cumsum(axis=0)]
        return rows

    def near(self, rows: np.ndarray, rng: np.random.Generator, count: int, most: int) -> np.ndarray:
        """Plans (count, L) near those given (n, L): up to `most` layers a step along their hulls away."""
        found = rows[rng.integers(len(rows), size=count)]
        moves = rng.integers(1, most + 1, size=count)
        for number in range(most):
            moved = np.flatnonzero(moves > number)
            layers = rng.integers(len(self.layers), size=len(moved))
            steps = rng.integers(2, size=len(moved))
            found[moved, layers] = self._neighbours[steps, layers, found[moved, layers]]
        return found

    def plan(self, row: np.ndarray) -> Plan:
        """The plan of a row."""
        chosen = {layer.layer: layer.options[at].choice for layer, at in zip(self.layers, row, strict=True)}
        return Plan.of(self._space.model_digest, chosen)

    def texts(self, row: np.ndarray) -> dict[str, str]:
        """The text of every layer's choice."""
        return {layer.layer: layer.texts[at] for layer, at in zip(self.layers, row, strict=True)}

    def has(self, texts: Mapping[str, str]) -> bool:
        """Whether all of these choices can be had."""
        return all(text == "dense" or text in self._places.get(name, ()) for name, text in texts.items())

    def row(self, texts: Mapping[str, str]) -> np.ndarray:
        """The row of these choices; a layer without one, or with one that cannot be had, is dense."""
        at = [places.get(texts.get(name, ""), 0) for name, places in self._places.items()]
        return np.array(at, np.int64)


def lower_hull(layer: LayerOptions) -> tuple[Option, ...]:
    """The options that are best for some multiplier: rising error, falling latency, falling gain."""
    hull: list[Option] = []
    for option in sorted(layer.options, key=lambda option: (option.error, option.latency_s)):
        if hull and option.latency_s >= hull[-1].latency_s:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], option):
            hull.pop()
        hull.append(option)
    return tuple(hull)


def _gain(before: Option, after: Option) -> float:
    """Seconds gained per error added."""
    return (before.latency_s - after.latency_s) / (after.error - before.error)
