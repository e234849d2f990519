from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.pattern import NM, Block
from hwsparse.plan import Choice, parse_choice
from hwsparse.sparsify import LayerStatistics, achieved_ratio, alps, output_error, regroup
from hwsparse.sparsify.regroup import row_order
from tests.codegen.layers import product
from tests.sparsify.problems import correlated, has_structure, problems, short_blocks, statistics_of


@given(problems())
def test_the_structure_is_exact_in_some_order_of_rows(problem: tuple[np.ndarray, LayerStatistics, Choice, int]) -> None:
    weight, statistics, choice, groups = problem
    pruned = regroup(weight, statistics, choice, groups)
    assert pruned.dtype == np.float32 and np.isfinite(pruned).all()
    direct = alps(weight, statistics, choice, groups)
    less = short_blocks(weight, choice, groups)
    assert achieved_ratio(pruned != 0) == pytest.approx(achieved_ratio(direct != 0), abs=less)
    shared = {Block: "rows", NM: "shared"}.get(type(choice.pattern))
    if shared is None or getattr(choice.pattern, shared) == 1:
        np.testing.assert_array_equal(pruned, direct)
        return
    # Rows of equal masks side by side, those of the short group, if any, at the end of each group's.
    rows = pruned.reshape(groups, pruned.shape[0] // groups, -1)
    count = getattr(choice.pattern, shared)
    for group in rows:
        masks = [row.tobytes() for row in group != 0]
        order = sorted(range(len(group)), key=lambda row: (masks.count(masks[row]) % count > 0, masks[row]))
        ordered = group[order].reshape(len(group), *pruned.shape[1:])
        assert has_structure(ordered, choice, 1)


@given(st.integers(1, 20), st.sampled_from((2, 4, 8, 16)), st.integers(0, 9))
def test_an_order_has_every_row_once(rows: int, shared: int, seed: int) -> None:
    power = np.random.default_rng(seed).random((rows, 6))
    assert sorted(row_order(power, shared).tolist()) == list(range(rows))


@given(st.integers(1, 20), st.sampled_from((0.1, 0.5, 1.0)), st.integers(0, 99))
def test_rows_are_joined_from_the_largest_overlap_on(rows: int, kept: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    power = rng.random((rows, 6)) * (rng.random((rows, 6)) < kept)  # many rows may keep nothing
    overlap = np.sqrt(power) @ np.sqrt(power).T
    left, pairs = set(range(rows)), []
    for first, second in sorted(itertools.combinations(range(rows), 2), key=lambda pair: -overlap[pair]):
        if {first, second} <= left:
            pairs.append((first, second))
            left -= {first, second}
    order = row_order(power, 2)
    even = rows - rows % 2
    assert order[even:].tolist() == sorted(left)
    assert {tuple(sorted(pair)) for pair in order[:even].reshape(-1, 2).tolist()} == set(pairs)


def test_rows_that_keep_the_same_columns_come_together() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((4, 30)) < 0.2
    owner = rng.permutation(np.repeat(np.arange(4), 4))
    found = owner[row_order(masks[owner] * rng.uniform(0.5, 1, (16, 30)), 4)].reshape(4, 4)
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("text", ["block4x1@0.8", "block8x1@0.5", "1:4x4"])
def test_more_is_kept_than_in_the_order_that_is(text: str) -> None:
    rng = np.random.default_rng(0)
    statistics = statistics_of(correlated(rng, 1, 40, 400))
    # Four kinds of rows, mixed: each kind reads columns of its own.
    reads = rng.random((4, 40)) < 0.4
    weight = (rng.standard_normal((32, 40)) * (reads[rng.integers(0, 4, 32)] + 0.1)).astype(np.float32)
    choice = parse_choice(text)
    grouped, direct = (output_error(weight, f(weight, statistics, choice), statistics) for f in (regroup, alps))
    assert grouped < 0.8 * direct


@pytest.mark.parametrize("text", ["block4x1@0.5", "2:4x4"])
def test_rows_that_are_in_order_stay_there(text: str) -> None:
    rng = np.random.default_rng(0)
    keeps = np.repeat(rng.permuted(np.tile([1, 1, 0, 0], (4, 10, 1)), axis=2).reshape(4, 40), 4, axis=0)
    weight = ((keeps + 0.01) * rng.uniform(1, 2, (16, 40))).astype(np.float32)
    statistics, choice = statistics_of(correlated(rng, 1, 40, 400)), parse_choice(text)
    np.testing.assert_array_equal(regroup(weight, statistics, choice), alps(weight, statistics, choice))


def test_what_is_found_once_cannot_be_changed_by_a_caller() -> None:
    rng = np.random.default_rng(0)
    weight, half = rng.standard_normal((8, 12)).astype(np.float32), parse_choice("unstructured@0.5")
    statistics = statistics_of(correlated(rng, 1, 12, 400))
    first = regroup(weight, statistics, half)
    expected = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(regroup(weight, statistics, half), expected)
    other = regroup(-weight, statistics, half)
    np.testing.assert_allclose(other, -expected, rtol=1e-5)


def test_kernels_store_no_more_than_for_blocks_in_place() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 40)).astype(np.float32)
    pruned = regroup(weight, statistics_of(correlated(rng, 1, 40, 400)), parse_choice("block4x1@0.75"))
    packed = pack_rows(pruned, Geometry.of(product((1, 9), 40, 24)), 4, 1, 40, np.arange(40))
    assert 4 * len(packed.values) == np.count_nonzero(pruned)
    assert sorted(packed.rows.tolist()) == list(range(24))
