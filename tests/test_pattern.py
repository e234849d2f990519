"""Patterns read and write one text form; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import PatternError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured, parse_pattern

PATTERNS: st.SearchStrategy[Pattern] = st.one_of(
    st.just(Dense()),
    st.just(Unstructured()),
    st.builds(Block, st.integers(2, 64), st.integers(1, 64)),
    st.integers(2, 64).flatmap(lambda m: st.builds(NM, st.integers(1, m - 1), st.just(m), st.integers(1, 64))),
    st.builds(Channel, st.integers(1, 256)),
)


@given(PATTERNS)
def test_text_stands_for_the_pattern(pattern: Pattern) -> None:
    assert parse_pattern(str(pattern)) == pattern


@given(st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except PatternError:
        return
    assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize(
    "text", ["", "block", "block1x1", "block0x4", "block65x1", "4:4", "0:4", "2:65", "channel0", "Dense"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blok4x1", "'blok4x1' is not a pattern; use dense, unstructured, blockRxC"),
        ("block1x1", "block1x1: a block has 1 to 64 rows and columns and more than one weight"),
        ("4:4", "4:4x1: N:M needs 1 <= N < M <= 64"),
        ("2:4x65", "2:4x65: N:M needs .* shared by 1 to 64 rows"),
        ("channel257", "channel257: the multiple is 1 to 256"),
    ],
)
def test_the_fault_is_said(text: str, said: str) -> None:
    with pytest.raises(PatternError, match=f"^{said}"):
        parse_pattern(text)


def test_the_ratio_of_n_of_m() -> None:
    assert NM(2, 4).ratio == 0.5
    assert NM(1, 4, 8).ratio == 0.75
