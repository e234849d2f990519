"""Strict TOML: what is written reads back; what is not of the declared kind is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import stricttoml
from hwsparse.errors import InputError

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
ITEMS: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(TEXTS, items, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, ITEMS, max_size=4))
def test_what_is_written_reads_back(table: dict[str, Any]) -> None:
    assert stricttoml.loads(f"it = {stricttoml.dumps(table)}") == {"it": table}


@pytest.mark.parametrize(
    "text", ["a", "a = 1\na = 2", "a = " + "[" * 50_000, "a = " + "{a = " * 20_000, "a = 1" + "0" * 5000]
)
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not TOML"):
        stricttoml.loads(text)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("a = true", int, "must be of type integer, not True"),
        ("a = 1.0", int, "must be of type integer"),
        ("a = 1" + "0" * 30, int, r"must be of type integer.*10000"),
        ("a = true", float, "must be of type finite number"),
        ("a = nan", float, "must be of type finite number, not nan"),
        ("a = -inf", float, "must be of type finite number"),
        ("a = 1" + "0" * 400, float, r"must be of type finite number.*\.\.\."),
        ("a = 2026-01-01", str, "must be of type text"),
        ('a = ["x", 1]', list, "must be of type list of texts"),
        ("b = 1", int, "a is missing"),
    ],
)
def test_what_is_of_another_kind_is_refused(text: str, kind: type, said: str) -> None:
    with pytest.raises(InputError, match=rf"^\[t\] .*{said}") as caught:
        stricttoml.value(stricttoml.loads(text), "a", kind, "[t] ")
    assert len(str(caught.value)) < 150


def test_an_integer_is_a_number() -> None:
    assert stricttoml.value({"a": 3}, "a", float) == 3.0


def test_an_unknown_key_is_met_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown key 'treads'; did you mean threads\? allowed: runner, threads"):
        stricttoml.only({"treads": 1}, ("runner", "threads"))
    stricttoml.only({"threads": 1}, ("runner", "threads"))
