"""Typos: words stay words, and as many; how many letters go wrong is as asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.data import Corruption
from hwsparse.data.typos import NEIGHBOURS, RATES, with_typos

TEXT = "The quick brown fox jumps over the lazy dog near the bank of the wide river before noon. " * 30


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.text(max_size=60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_every_word_stays_a_word(text: str, rate: float, seed: int) -> None:
    found = with_typos(text, rate, chance(seed))
    assert len(found.split()) == len(text.split())
    for before, after in zip(text.split(), found.split(), strict=True):
        assert 1 <= len(after) <= 2 * len(before)
    assert "".join(c for c in found if c.isspace()) == "".join(c for c in text if c.isspace())
    assert with_typos(text, rate, chance(seed)) == found
    assert with_typos(text, 0, chance(seed)) == text


@given(st.text("0123456789.,;:!?-()\n\t ", max_size=40), st.integers(0, 100))
def test_only_letters_go_wrong(text: str, seed: int) -> None:
    assert with_typos(text, 1, chance(seed)) == text


@given(st.sampled_from([chr(code) for code in range(ord("a"), ord("z") + 1)]), st.integers(0, 1000), st.booleans())
def test_a_word_of_one_letter_is_never_lost(letter: str, seed: int, upper: bool) -> None:
    word = letter.upper() if upper else letter
    found = with_typos(word, 1, chance(seed))
    assert found == word * 2 or (found.lower() in NEIGHBOURS[letter] and found.isupper() == upper)


def test_all_four_slips_happen() -> None:
    found = {with_typos("abc", 0.4, chance(seed)) for seed in range(400)}
    assert {"bac", "acb", "bc", "ac", "ab", "aabc", "abbc", "abcc", "sbc", "avc", "abx"} <= found


def test_keys_are_neighbours_of_each_other() -> None:
    assert len(NEIGHBOURS) == 26
    assert {key: set(NEIGHBOURS[key]) for key in "qgm"} == {"q": set("wa"), "g": set("fhtyvb"), "m": set("njk")}
    for key, beside in NEIGHBOURS.items():
        assert key not in beside and all(key in NEIGHBOURS[other] for other in beside)


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize("seed", range(3))
def test_severity_is_how_many_letters_go_wrong(seed: int) -> None:
    text = TEXT[:800]
    letters = sum(c.isalpha() for c in text)
    shares = [edits(text, Corruption("typos", severity, seed).of_text(text)) / letters for severity in range(1, 6)]
    assert shares == sorted(shares)
    # A swap of two letters is two edits, but for two that are alike.
    for share, rate in zip(shares, RATES, strict=True):
        assert 0.5 * rate - 0.01 <= share <= 1.7 * rate + 0.01


def test_chance_is_the_seeds_and_the_texts() -> None:
    corruption = Corruption("typos", 4)
    assert corruption.of_text(TEXT) == corruption.of_text(TEXT) != Corruption("typos", 4, 1).of_text(TEXT)
    assert corruption.of_text("") == "" and corruption.of_text(" \n") == " \n"
