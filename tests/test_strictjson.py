from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import strictjson
from hwsparse.errors import InputError
from hwsparse.plan import Plan, parse_choice


@dataclass(frozen=True, slots=True)
class Inner:
    text: str
    kind: Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Outer:
    number: float
    count: int
    flag: bool
    inner: Inner | None
    many: tuple[Inner, ...]
    pair: tuple[int, str]
    plan: Plan

    def __post_init__(self) -> None:
        if self.count == 13:
            raise InputError("unlucky")


inners = st.builds(Inner, st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["a", "b"]))
outers = st.builds(
    Outer,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-strictjson.MAX_INT, strictjson.MAX_INT).filter(lambda n: n != 13),
    st.booleans(),
    st.none() | inners,
    st.lists(inners, max_size=3).map(tuple),
    st.tuples(st.integers(0, 9), st.text("xyz")),
    st.just(Plan.of("m", {"l": parse_choice("2:4")})),
)
ONE = Outer(0.5, 1, True, Inner("t", "a"), (Inner("u", "b"),), (1, "x"), Plan("m"))


@given(outers)
def test_what_is_written_reads_back_equal_and_writes_the_same_text(value: Outer) -> None:
    text = strictjson.dumps(value)
    again = strictjson.loads(Outer, text, "here")
    assert again == value
    assert strictjson.dumps(again) == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"more": 1}, "here: has an unknown key 'more'"),
        ({"number": True}, "here.number: True is not a number"),
        ({"number": "1"}, "here.number: '1' is not a number"),
        ({"count": 1.5}, "here.count: 1.5 is not a whole number"),
        ({"count": 10**400}, "here.count: 1000.* is out of range"),
        ({"number": 10**400}, "here.number: 1000.* is not a number"),
        ({"count": 13}, "here: unlucky"),
        ({"flag": 1}, "here.flag: 1 is not a bool"),
        ({"inner": []}, r"here.inner: \[\] is not a dict"),
        ({"inner": {"text": "t", "kind": "c"}}, "here.inner.kind: 'c' is not one of a, b"),
        ({"many": [{"text": 3, "kind": "a"}]}, r"here.many\[0\].text: 3 is not a str"),
        ({"many": "ab"}, "here.many: 'ab' is not a list"),
        ({"pair": [1]}, "here.pair: has 1 entries, not 2"),
        ({"plan": {"model": "m"}}, "here.plan: a plan has exactly the keys"),
        ({"inner": {"text": "\ud800", "kind": "a"}}, "here.inner.text: not valid Unicode"),
    ],
)
def test_what_is_not_declared_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        strictjson.decode(Outer, {**strictjson.encode(ONE), **change}, "here")


def test_a_missing_key_is_named() -> None:
    data = strictjson.encode(ONE)
    del data["flag"]
    with pytest.raises(InputError, match="here: misses 'flag'"):
        strictjson.decode(Outer, data, "here")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":1,"a":2}', "[" * 100_000, "{", "", b"\xff\xfe\xff"])
def test_what_is_not_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InputError, match="here: not valid JSON"):
        strictjson.parse(text, "here")


@pytest.mark.parametrize("number", [math.nan, math.inf, 10**400])
def test_numbers_without_a_text_are_not_written(number: float) -> None:
    with pytest.raises(InputError, match=r"Outer\.number"):
        strictjson.dumps(dataclasses.replace(ONE, number=number))


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_text_raises_anything_else(text: str | bytes) -> None:
    with pytest.raises(InputError):
        strictjson.loads(Outer, text, "here")
