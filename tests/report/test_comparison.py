from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import strictjson
from hwsparse.errors import InputError
from hwsparse.report import Budget, Ceiling, Comparison, Method
from hwsparse.report.comparison import structure
from tests.report.sample import MODEL, make_plan

texts = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    name, mask = draw(texts), draw(st.sampled_from(["static", "dynamic"]))
    when = draw(st.sampled_from(["before", "during", "after", "never"]))
    if when == "never":
        return Method(name, when, "dense", mask)
    starts = ["dense-to-sparse"] + ["sparse-to-sparse"] * (when != "after")
    return Method(name, when, draw(st.sampled_from(starts)), mask)


def budgets() -> st.SearchStrategy[Budget]:
    return st.builds(Budget, st.integers(0, 10**9), st.floats(0, 1000))


def comparisons() -> st.SearchStrategy[Comparison]:
    qualities = st.tuples(*[st.floats(-1, 1)] * 3).map(sorted)
    ceilings = st.builds(lambda of, q: Ceiling(of, q[1], (q[0], q[2])), texts, qualities)
    seeds = st.lists(st.integers(0, 10**9), unique=True, max_size=4).map(tuple)
    return st.builds(Comparison, st.just(MODEL), seeds, st.none() | ceilings)


@given(methods(), budgets(), comparisons())
def test_each_is_read_back_as_it_was(method: Method, budget: Budget, comparison: Comparison) -> None:
    for each in (method, budget, comparison):
        assert strictjson.loads(type(each), strictjson.dumps(each), "text") == each


@pytest.mark.parametrize(
    ("when", "start", "message"),
    [
        ("never", "dense-to-sparse", "what is never pruned is dense"),
        ("after", "dense", "what is never pruned is dense"),
        ("after", "sparse-to-sparse", "was trained dense"),
    ],
)
def test_categories_that_contradict_each_other_are_refused(when: str, start: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Method("m", when, start)


def test_a_category_that_does_not_exist_is_refused() -> None:
    text = strictjson.dumps(Method("m", "after", "dense-to-sparse")).replace("after", "later")
    with pytest.raises(InputError, match="not one of before, during, after, never"):
        strictjson.loads(Method, text, "text")


@pytest.mark.parametrize("wrong", [(-1, 0.0), (1, -1.0), (1, float("inf")), (1, float("nan"))])
def test_budgets_that_cannot_be_are_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(InputError, match="are no budget"):
        Budget(*wrong)


def test_comparisons_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="no checkpoint's digest"):
        Comparison("here", (0,))
    with pytest.raises(InputError, match="one is there twice"):
        Comparison(MODEL, (1, 0, 1))
    with pytest.raises(InputError, match="is no quality"):
        Ceiling("a", 0.9, (1.0, 0.8))
    with pytest.raises(InputError, match="is no quality"):
        Ceiling("a", float("nan"), (0.8, 1.0))


def test_structure_is_told_by_the_patterns() -> None:
    assert structure(make_plan()) == "dense"
    assert structure(make_plan("unstructured@0.5", "unstructured@0.9")) == "unstructured"
    for text in ("block4x1@0.5", "2:4", "2:4x8", "channel@0.5"):
        assert structure(make_plan(text)) == "structured"
        assert structure(make_plan(text, "unstructured@0.5")) == "mixed"
