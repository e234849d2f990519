"""SPDY as published: dynamic programming for one latency, with coefficients found by trying some at random.

Frantar and Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", ICML 2022, section 3: the least sum of layers'
errors, each times a coefficient, within a time that is cut into buckets; coefficients drawn at random, then the best of
them changed, ever fewer at a time, as long as the network that comes of it gets better. Here trials are shared among
several times, from dense to the fastest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwsparse.search.additive import Additive

BUCKETS = 1000
# Times that trials are shared among; of each time's trials, the share that draws all coefficients anew; of the
# coefficients, the share that is changed at first.
TIMES, ANEW, CHANGED = 5, 0.4, 0.1


def least_harm(additive: Additive, coefficients: np.ndarray, within_s: float) -> np.ndarray | None:
    """The plan (L,) of least weighted error that takes no longer, to a bucket's accuracy; None: there is none."""
    layers = len(additive.layers)
    options = [np.arange(count) for count in additive.counts]
    times, errors = [], []
    for at, places in enumerate(options):
        rows = np.zeros((len(places), layers), np.int64)
        rows[:, at] = places
        alone = additive.latencies(rows) - additive.latencies(np.zeros((1, layers), np.int64))[0]
        times.append(alone)
        errors.append(additive.errors(rows)[:, at] * coefficients[at])
    fastest = [layer.min() for layer in times]
    dense_s = float(additive.latencies(np.zeros((1, layers), np.int64))[0])
    spare_s = within_s - dense_s - sum(fastest)
    if spare_s < 0:
        return None
    # What each option takes beyond its layer's fastest, in buckets, rounded up: the limit holds.
    taken = [
        np.ceil((layer - least) / max(spare_s, 1e-300) * BUCKETS - 1e-9).astype(np.int64)
        for layer, least in zip(times, fastest, strict=True)
    ]
    best = np.zeros(BUCKETS + 1)
    choices = []
    for buckets, harm in zip(taken, errors, strict=True):
        candidates = np.full((len(buckets), BUCKETS + 1), np.inf)
        for option, (needed, harmed) in enumerate(zip(buckets, harm, strict=True)):
            if needed <= BUCKETS:
                candidates[option, needed:] = best[: BUCKETS + 1 - needed] + harmed
        choices.append(candidates.argmin(0))
        best = candidates.min(0)
    row = np.zeros(layers, np.int64)
    left = BUCKETS
    for at in reversed(range(layers)):
        row[at] = choices[at][left]
        left -= taken[at][row[at]]
    return row


def search(
    additive: Additive, quality: Callable[[np.ndarray], float], trials: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Plans (trials, L) in the order in which they were tried, and their qualities (trials,)."""
    rng = np.random.default_rng(seed)
    front = additive.front()
    slowest, fastest = (float(additive.latencies(row[None])[0]) for row in (front[0], front[-1]))
    rows, qualities = [front[0]], [quality(front[0])]
    shares = np.array_split(np.arange(trials - 1), TIMES)
    for within_s, share in zip(np.geomspace(slowest, fastest, TIMES + 2)[1:-1], shares, strict=True):
        kept, best = np.ones(len(additive.layers)), -np.inf
        for number in range(len(share)):
            if number < ANEW * len(share):
                coefficients = rng.uniform(size=len(kept))
            else:
                over = (number - ANEW * len(share)) / max((1 - ANEW) * len(share), 1)
                count = max(1, round(CHANGED * len(kept) * (1 - over)))
                coefficients = kept.copy()
                coefficients[rng.choice(len(kept), count, replace=False)] = rng.uniform(size=count)
            row = least_harm(additive, coefficients, within_s)
            if row is None:
                break
            found = quality(row)
            rows.append(row)
            qualities.append(found)
            if found > best:
                kept, best = coefficients, found
    return np.stack(rows), np.array(qualities)
