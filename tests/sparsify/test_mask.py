"""Every mask has exactly its pattern's structure, its ratio, and the highest scores that these allow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PatternError
from hwsparse.pattern import NM, Block, Channel, Unstructured, parse_pattern
from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify import achieved_ratio, applicable, make_mask
from tests.codegen.layers import conv, product

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
RATIOS = st.sampled_from((0.0, 0.25, 0.5, 0.9, 1.0))


def scores_of(shape: tuple[int, ...], seed: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, shape).astype(np.float32) if ties else rng.random(shape, np.float32)


@given(SHAPES, RATIOS, st.integers(0, 9), st.booleans())
def test_unstructured_drops_the_lowest_scores(shape: tuple[int, ...], ratio: float, seed: int, ties: bool) -> None:
    scores = scores_of(shape, seed, ties)
    mask = make_mask(scores, Choice(Unstructured(), ratio))
    assert np.count_nonzero(~mask) == round(ratio * mask.size)
    assert scores[~mask].max(initial=-1) <= scores[mask].min(initial=9)


@given(
    st.integers(1, 3), st.integers(2, 9), st.integers(1, 5), st.integers(1, 3),
    st.integers(2, 4), st.integers(1, 3), RATIOS, st.integers(0, 9),
)  # fmt: skip
def test_blocks_are_kept_or_dropped_whole(
    groups: int, rows: int, inputs: int, kernel: int, high: int, wide: int, ratio: float, seed: int
) -> None:
    scores = scores_of((groups * rows, inputs, kernel), seed)
    choice = Choice(Block(high, wide), ratio)
    if high > rows or wide > inputs * kernel:
        with pytest.raises(PatternError):
            make_mask(scores, choice, groups)
        return
    mask = make_mask(scores, choice, groups).reshape(groups, rows, -1)
    kept, means = [], []
    values = scores.reshape(mask.shape)
    for group, top, left in itertools.product(range(groups), range(0, rows, high), range(0, inputs * kernel, wide)):
        block = np.s_[group, top : top + high, left : left + wide]
        assert mask[block].all() or not mask[block].any()
        kept.append(bool(mask[block].all()))
        means.append(float(values[block].mean()))
    assert kept.count(False) == round(ratio * len(kept))
    worst_kept = min((m for m, k in zip(means, kept, strict=True) if k), default=9)
    assert max((m for m, k in zip(means, kept, strict=True) if not k), default=-1) <= worst_kept + 1e-6


@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from(((1, 2), (2, 4), (1, 4))), st.integers(1, 4), st.integers(0, 9),
)  # fmt: skip
def test_n_of_every_m_inputs_at_one_kernel_position(
    groups: int, rows: int, blocks: int, kernel: int, nm: tuple[int, int], shared: int, seed: int
) -> None:
    n, m = nm
    pattern = NM(n, m, shared)
    scores = scores_of((groups * rows, blocks * m, kernel), seed)
    if shared > rows:
        with pytest.raises(PatternError):
            make_mask(scores, Choice(pattern, pattern.ratio), groups)
        return
    mask = make_mask(scores, Choice(pattern, pattern.ratio), groups)
    by_group = mask.reshape(groups, rows, blocks, m, kernel)
    assert (by_group.sum(axis=3) == n).all()
    values = scores.reshape(by_group.shape)
    for group, top in itertools.product(range(groups), range(0, rows, shared)):
        together = by_group[group, top : top + shared]
        assert (together == together[0]).all()
        sums = values[group, top : top + shared].sum(axis=0)
        best = np.sort(sums, axis=1)[:, -n:].sum(axis=1)
        np.testing.assert_allclose((sums * together[0]).sum(axis=1), best, rtol=1e-5)


@given(st.integers(3, 40), st.integers(1, 8), RATIOS, st.integers(0, 9))
def test_channels_are_kept_by_norm_in_multiples(rows: int, multiple: int, ratio: float, seed: int) -> None:
    scores = scores_of((rows, 3), seed)
    choice = Choice(Channel(multiple), ratio)
    if rows <= multiple:
        with pytest.raises(PatternError):
            make_mask(scores, choice)
        return
    mask = make_mask(scores, choice)
    kept = mask.all(axis=1)
    assert (mask.any(axis=1) == kept).all()
    count = int(kept.sum())
    assert count == rows or (count % multiple == 0 and count > 0)
    assert abs(count - (1 - ratio) * rows) <= max(multiple, multiple / 2)
    norms = np.square(scores).sum(axis=1)
    assert norms[~kept].max(initial=-1) <= norms[kept].min()


def test_applicable_tells_what_make_mask_refuses() -> None:
    layer = conv(1, 6, (8, 8), 4, (3, 3))
    for text in ("block8x1", "2:4", "1:2x8", "channel"):
        reason = applicable(layer, parse_pattern(text))
        assert reason is not None
        pattern = parse_pattern(text)
        ratio = pattern.ratio if isinstance(pattern, NM) else 0.5
        with pytest.raises(PatternError, match=str(pattern)):
            make_mask(np.ones(layer.weight_shape), Choice(pattern, ratio))
    for text in ("dense", "unstructured", "block4x1", "1:2"):
        assert applicable(layer, parse_pattern(text)) is None
    assert "depthwise" in str(applicable(conv(1, 4, (8, 8), 4, (3, 3), groups=4), Unstructured()))
    assert applicable(product((3,), 8, 4), parse_pattern("2:4")) is None


def test_what_was_dropped_is_counted() -> None:
    mask = make_mask(np.arange(16.0).reshape(4, 4), parse_choice("unstructured@0.25"))
    assert achieved_ratio(mask) == 0.25
    assert not mask[0].any() and mask[1:].all()
