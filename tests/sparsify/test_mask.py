"""Every mask has exactly its pattern's structure, its ratio, and the highest scores that these allow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PatternError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured, parse_pattern
from hwsparse.plan import Choice, Layer, parse_choice
from hwsparse.sparsify import achieved_ratio, applicable, make_mask
from tests.codegen.layers import conv, convs, product, products
from tests.test_pattern import PATTERNS

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
RATIOS = st.sampled_from((0.0, 0.25, 0.5, 0.9, 1.0))


def scores_of(shape: tuple[int, ...], seed: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, shape).astype(np.float32) if ties else rng.random(shape, np.float32)


def dropped(ratio: float, count: int) -> int:
    """The nearest number, but one is left unless all are to go."""
    return count if ratio == 1 else min(round(ratio * count), count - 1)


@given(SHAPES, RATIOS, st.integers(0, 9), st.booleans())
def test_unstructured_drops_the_lowest_scores(shape: tuple[int, ...], ratio: float, seed: int, ties: bool) -> None:
    scores = scores_of(shape, seed, ties)
    mask = make_mask(scores, Choice(Unstructured(), ratio))
    assert np.count_nonzero(~mask) == dropped(ratio, mask.size)
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
    if high > rows or wide > inputs:
        with pytest.raises(PatternError):
            make_mask(scores, choice, groups)
        return
    mask = make_mask(scores, choice, groups).reshape(groups, rows, inputs, kernel)
    kept, means = [], []
    values = scores.reshape(mask.shape)
    places = itertools.product(range(groups), range(0, rows, high), range(0, inputs, wide), range(kernel))
    for group, top, left, position in places:
        block = np.s_[group, top : top + high, left : left + wide, position]
        assert mask[block].all() or not mask[block].any()
        kept.append(bool(mask[block].all()))
        means.append(float(values[block].mean()))
    assert kept.count(False) == dropped(ratio, len(kept))
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
    if ratio == 0:
        assert count == rows
    else:
        possible = range(multiple, rows + 1, multiple)
        assert count in possible
        assert abs(count - (1 - ratio) * rows) <= min(abs(size - (1 - ratio) * rows) for size in possible) + 1e-9
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


@given(st.one_of(convs(), products()), PATTERNS)
def test_a_mask_is_made_exactly_where_the_pattern_applies(layer: Layer, pattern: Pattern) -> None:
    reason = applicable(layer, pattern)
    if reason is not None and reason.startswith("depthwise"):
        return  # a mask could be made; it is of no use
    ratio = 0.0 if isinstance(pattern, Dense) else pattern.ratio if isinstance(pattern, NM) else 0.5
    scores = np.ones(layer.weight_shape, np.float32)
    if reason is None:
        assert make_mask(scores, Choice(pattern, ratio), layer.groups).shape == layer.weight_shape
    else:
        with pytest.raises(PatternError) as caught:
            make_mask(scores, Choice(pattern, ratio), layer.groups)
        assert reason in str(caught.value)


def test_what_was_dropped_is_counted() -> None:
    mask = make_mask(np.arange(16.0).reshape(4, 4), parse_choice("unstructured@0.25"))
    assert achieved_ratio(mask) == 0.25
    assert not mask[0].any() and mask[1:].all()
    # 20 channels at 30 %: 14 asked for, 16 kept.
    assert achieved_ratio(make_mask(np.ones((20, 2)), Choice(Channel(8), 0.3))) == pytest.approx(0.2)


def highest(scores: list[float], keep: int) -> list[bool]:
    """Which of these are kept: the highest, of equals the first."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [index in order[:keep] for index in range(len(scores))]


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
def test_no_mask_of_that_structure_and_ratio_keeps_more(seed: int, size: tuple[int, int]) -> None:
    scores = np.random.default_rng(seed).random((4, 4))
    pattern = Unstructured() if size == (1, 1) else Block(*size)
    high, wide = size
    places = [np.s_[i : i + high, j : j + wide] for i in range(0, 4, high) for j in range(0, 4, wide)]
    for keep in (1, len(places) // 4, len(places) // 2, len(places) - 1):
        mask = make_mask(scores, Choice(pattern, 1 - keep / len(places)))
        sums = [scores[place].sum() for place in places]
        best = max(sum(some) for some in itertools.combinations(sums, keep))
        assert scores[mask].sum() == pytest.approx(best)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["1:4", "2:4", "2:4x2"]))
def test_no_n_of_m_mask_keeps_more(seed: int, text: str) -> None:
    scores = np.random.default_rng(seed).random((2, 4))
    nm = parse_pattern(text)
    assert isinstance(nm, NM)
    mask = make_mask(scores, Choice(nm, nm.ratio))
    rows = scores if nm.shared == 1 else scores.sum(axis=0, keepdims=True)
    best = sum(max(sum(some) for some in itertools.combinations(row, nm.n)) for row in rows.tolist())
    assert scores[mask].sum() == pytest.approx(best)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 0.75]))
def test_no_choice_of_channels_has_a_larger_norm(seed: int, ratio: float) -> None:
    scores = np.random.default_rng(seed).random((8, 3))
    mask = make_mask(scores, Choice(Channel(2), ratio))
    norms = np.square(scores).sum(axis=1).tolist()
    best = max(sum(some) for some in itertools.combinations(norms, round(8 * (1 - ratio))))
    assert np.square(scores[mask]).sum() == pytest.approx(best)


@pytest.mark.parametrize("text", ["unstructured", "block4x1", "block3x5", "channel"])
def test_ratio_nothing_keeps_everything(text: str) -> None:
    assert make_mask(np.ones((20, 6)), Choice(parse_pattern(text), 0.0)).all()
    assert make_mask(np.ones((20, 6)), Choice()).all()


@pytest.mark.parametrize(("text", "kept"), [("unstructured", 0), ("block4x1", 0), ("block3x5", 0), ("channel", 8)])
def test_ratio_one_drops_everything_but_one_multiple_of_channels(text: str, kept: int) -> None:
    mask = make_mask(np.arange(120.0).reshape(20, 6), Choice(parse_pattern(text), 1.0))
    assert mask.sum() == kept * 6


def test_of_equal_scores_the_first_stay() -> None:
    scores = np.ones((4, 8), np.float32)
    for text in ("unstructured", "block2x1", "block1x2"):
        mask = make_mask(scores, Choice(parse_pattern(text), 0.5))
        assert mask[:2].all() and not mask[2:].any()
    assert make_mask(scores, Choice(NM(2, 4), 0.5)).tolist() == [[True, True, False, False] * 2] * 4
    assert make_mask(scores, Choice(Channel(2), 0.5))[:, 0].tolist() == [True, True, False, False]


def test_short_blocks_compete_by_their_mean() -> None:
    scores = np.array([[1.0, 1, 1], [1, 1, 1], [5, 0, 1.5]])  # two blocks 2 x 1 in each column, the lower one short
    mask = make_mask(scores, Choice(Block(2), 0.5))
    assert mask.tolist() == [[True, False, False], [True, False, False], [True, False, True]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 3, 16, 64]))
def test_any_m_works(seed: int, rows: int, groups_of_m: int, m: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 5, (rows, groups_of_m * m)).astype(np.float64)
    nm = NM(max(1, m // 3), m)
    mask = make_mask(scores, Choice(nm, nm.ratio))
    for row, kept in zip(scores.reshape(-1, m), mask.reshape(-1, m), strict=True):
        assert kept.tolist() == highest(row.tolist(), nm.n)


def test_scores_are_left_alone_and_may_be_read_only() -> None:
    scores = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    before = scores.copy()
    scores.setflags(write=False)
    for text in ("unstructured", "block4x2", "channel2"):
        make_mask(scores, Choice(parse_pattern(text), 0.5))
    make_mask(scores, Choice(NM(2, 4), 0.5))
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.ones((4, 4))
    scores[2, 1] = bad
    with pytest.raises(PatternError, match="not finite"):
        make_mask(scores, Choice(Unstructured(), 0.9))


def test_of_a_number_of_channels_that_is_no_multiple_only_ratio_nothing_keeps_all() -> None:
    scores = np.arange(23.0)[:, None]
    kept = {ratio: make_mask(scores, Choice(Channel(8), ratio)).sum() for ratio in (0.0, 0.01, 0.3, 0.5)}
    assert kept == {0.0: 23, 0.01: 16, 0.3: 16, 0.5: 8}
