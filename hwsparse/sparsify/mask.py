"""Which weights a pattern keeps: masks from scores, one function per family of patterns.

A weight is a matrix of output channels by (input channel, kernel position). Every mask keeps the highest
scores that its structure allows; ties go to the first.

Knows nothing of how scores are made, of models or devices.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from hwsparse.errors import PatternError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Layer


def applicable(layer: Layer, pattern: Pattern) -> str | None:
    """Why a layer's weight cannot have a pattern; None when it can."""
    depthwise = layer.window is not None and layer.groups > 1 and layer.groups == layer.input_shape[1]
    if isinstance(pattern, Dense):
        return None
    if depthwise:
        return "depthwise: too few weights per output for sparsity to save work"
    return _misfit(layer.weight_shape, layer.groups, pattern)


def make_mask(scores: np.ndarray, choice: Choice, groups: int = 1) -> np.ndarray:
    """The mask of a choice: True where a weight is kept.

    The ratio counts weights, or blocks, short ones at the edges too, or output channels, as many as their
    multiple allows; a ratio below 1 leaves one of them at least. `achieved_ratio` tells what came of it.

    Args:
        scores: (rows, in / groups, *kernel), not negative; more is more worth keeping.
        groups: of the convolution; no block or shared choice spans two of them.

    Raises:
        PatternError: the weight's shape cannot have the pattern, or a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise PatternError("a weight's score is not finite, so there is no telling which weights to keep")
    if reason := _misfit(scores.shape, groups, choice.pattern):
        raise PatternError(f"{choice.pattern} does not fit a weight of shape {scores.shape}: {reason}")
    match choice.pattern:
        case Dense():
            return np.ones(scores.shape, bool)
        case Unstructured():
            return _keep_highest(scores, choice.ratio)
        case Block() as block:
            return _blocks(scores, block, choice.ratio, groups)
        case NM() as nm:
            return _n_of_m(scores, nm, groups)
        case Channel() as channel:
            return _channels(scores, channel, choice.ratio)


def achieved_ratio(mask: np.ndarray) -> float:
    """The fraction of weights that a mask drops."""
    return 1.0 - float(np.count_nonzero(mask)) / mask.size


def _misfit(shape: tuple[int, ...], groups: int, pattern: Pattern) -> str | None:
    rows, inputs = shape[0], shape[1]
    match pattern:
        case Block(rows=high, cols=wide) if high > rows // groups or wide > inputs:
            return f"a group has {rows // groups} outputs of {inputs} inputs"
        case NM(m=m) if inputs % m:
            return f"a group has {inputs} inputs, not a multiple of {m}"
        case NM(shared=shared) if shared > rows // groups:
            return f"a group has {rows // groups} outputs, too few for {shared} to share a choice"
        case Channel(multiple=multiple) if groups > 1 or rows <= multiple:
            return f"{rows} outputs in {groups} groups; channels are dropped from one group of more than {multiple}"
    return None


def _keep_highest(scores: np.ndarray, ratio: float) -> np.ndarray:
    """Drops the round(ratio * size) lowest scores; only a ratio of 1 drops all."""
    drop = round(ratio * scores.size)
    if ratio < 1:
        drop = min(drop, scores.size - 1)
    mask = np.ones(scores.size, bool)
    if drop == scores.size:
        mask[:] = False
    elif drop:
        flat = scores.reshape(-1)
        threshold = np.partition(flat, drop - 1)[drop - 1]
        mask[flat < threshold] = False
        ties = np.flatnonzero(flat == threshold)
        # Of equal scores the last ones go, as many as are still to go.
        mask[ties[len(ties) - (drop - np.count_nonzero(~mask)) :]] = False
    return mask.reshape(scores.shape)


def _blocks(scores: np.ndarray, block: Block, ratio: float, groups: int) -> np.ndarray:
    """Whole blocks by mean score; the last block of a group or row may be short."""
    matrix = scores.reshape(groups, scores.shape[0] // groups, scores.shape[1], -1)
    rows = np.arange(0, matrix.shape[1], block.rows)
    inputs = np.arange(0, matrix.shape[2], block.cols)
    sums = np.add.reduceat(np.add.reduceat(matrix, rows, axis=1), inputs, axis=2)
    high = np.diff([*rows, matrix.shape[1]])
    wide = np.diff([*inputs, matrix.shape[2]])
    kept = _keep_highest(sums / (high[:, None, None] * wide[:, None]), ratio)
    mask = np.repeat(np.repeat(kept, high, axis=1), wide, axis=2)
    return mask.reshape(scores.shape)


def _n_of_m(scores: np.ndarray, nm: NM, groups: int) -> np.ndarray:
    """The n highest of every m consecutive inputs at one kernel position, chosen by `shared` rows together."""
    rows, inputs = scores.shape[:2]
    matrix = scores.reshape(groups, rows // groups, inputs // nm.m, nm.m, -1)
    starts = np.arange(0, matrix.shape[1], nm.shared)
    sums = np.add.reduceat(matrix, starts, axis=1)
    # How many of its m each one loses to. Comparing all pairs takes a third of the time that sorting does.
    places = np.ascontiguousarray(np.moveaxis(sums, 3, 0))
    losses = np.zeros(places.shape, np.uint8)
    for first, second in combinations(range(nm.m), 2):
        beaten = places[second] > places[first]
        losses[first] += beaten
        losses[second] += ~beaten
    kept = np.moveaxis(losses < nm.n, 0, 3)
    mask = np.repeat(kept, np.diff([*starts, matrix.shape[1]]), axis=1)
    return mask.reshape(scores.shape)


def _channels(scores: np.ndarray, channel: Channel, ratio: float) -> np.ndarray:
    """Whole rows by the norm of their scores."""
    rows = scores.shape[0]
    norms = np.square(scores.reshape(rows, -1), dtype=np.float64).sum(axis=1)
    mask = np.zeros(scores.shape, bool)
    mask[np.argsort(-norms, kind="stable")[: channel.kept(rows, ratio)]] = True
    return mask
