"""Slips of the keyboard, letter by letter.

The four kinds are those of Pruthi, Dhingra and Lipton, "Combating Adversarial Misspellings with Robust Word
Recognition", ACL 2019: a letter swapped with the next, dropped, typed twice, or its neighbour's on the keyboard. How
many there are is ours.
"""

from __future__ import annotations

import re

import numpy as np

# The share of letters that go wrong, by severity: from one word in twenty to two in three.
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each begins half a key further right than the one above


def typos(text: str, severity: int, chance: np.random.Generator) -> str:
    """The text with letters gone wrong at the severity's rate.

    White space stays as it is, and every word keeps at least one character.
    """
    return with_typos(text, RATES[severity - 1], chance)


def with_typos(text: str, rate: float, chance: np.random.Generator) -> str:
    """The text with about this share of its letters gone wrong; a higher rate adds slips to those of a lower one."""
    return re.sub(r"\S+", lambda word: _mistyped(word[0], rate, chance), text)


def _mistyped(word: str, rate: float, chance: np.random.Generator) -> str:
    slips, kinds, keys = chance.random(len(word)), chance.integers(0, 4, len(word)), chance.random(len(word))
    typed: list[str] = []
    left = len(word)  # characters of the word that are not dropped
    place = 0
    while place < len(word):
        letter, kind = word[place], kinds[place]
        place += 1
        if slips[place - 1] >= rate or not letter.isalpha():
            typed.append(letter)
        elif kind == 0 and place < len(word):
            typed += [word[place], letter]
            place += 1
        elif kind == 1 and left > 1:
            left -= 1
        elif kind == 2:
            typed += [letter, letter]
        else:  # also where there is nothing to swap with, or nothing left to drop
            typed.append(_neighbour(letter, keys[place - 1]))
    return "".join(typed)


def _neighbour(letter: str, which: float) -> str:
    """The letter of a key beside, `which` of them from 0 to 1; letters that a keyboard lacks stay."""
    beside = NEIGHBOURS.get(letter.lower(), letter)
    found = beside[int(which * len(beside))]
    return found.upper() if letter.isupper() else found


def _beside(row: int, column: int) -> str:
    places = ((row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1), (row + 1, column - 1),
              (row + 1, column))  # fmt: skip
    return "".join(_ROWS[r][c] for r, c in places if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r]))


NEIGHBOURS = {key: _beside(row, column) for row, keys in enumerate(_ROWS) for column, key in enumerate(keys)}
