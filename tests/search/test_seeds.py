from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.search import LayerOptions, SearchSpace, build_space, seed_plans, surrogate_plans, uniform_plans
from hwsparse.search.additive import lower_hull
from tests.search.toy import MODEL, offer, toy_space


def figures(space: SearchSpace, plan: Plan) -> tuple[float, float]:
    latency = error = 0.0
    for layer in space.layers:
        option = next(o for o in layer.options if o.choice == plan.choice(layer.layer))
        latency, error = latency + option.latency_s, error + option.error
    return latency, error


def fastest(space: SearchSpace) -> float:
    return sum(min(option.latency_s for option in layer.options) for layer in space.layers)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    offers = {}
    for index in range(draw(st.integers(1, 4))):
        points = draw(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 50)), max_size=6))
        choices = [offer(f"unstructured@0.{i + 1}", p / 100, e / 50) for i, (p, e) in enumerate(points)]
        offers[f"layer{index}"] = [offer("dense"), *choices]
    return build_space(MODEL, offers)


@given(spaces(), st.floats(0, 1e3))
def test_a_surrogate_plan_is_best_for_every_multiplier(space: SearchSpace, multiplier: float) -> None:
    best = sum(min(o.latency_s + multiplier * o.error for o in layer.options) for layer in space.layers)
    costs = [
        latency + multiplier * error for latency, error in (figures(space, plan) for plan in surrogate_plans(space))
    ]
    assert min(costs) == pytest.approx(best)


@given(spaces())
def test_surrogate_plans_run_from_accurate_to_fast(space: SearchSpace) -> None:
    places = [figures(space, plan) for plan in surrogate_plans(space)]
    assert places == sorted(places, key=lambda place: (-place[0], place[1]))
    assert len(set(places)) == len(places)
    assert places[0][1] == 0
    assert places[-1][0] == pytest.approx(fastest(space))


def test_the_hull_leaves_out_what_no_multiplier_takes() -> None:
    offers = [offer("dense"), offer("unstructured@0.1", 0.9, 0.5), offer("unstructured@0.2", 0.1, 0.6)]
    (layer,) = build_space(MODEL, {"a": offers}).layers
    assert [str(option.choice) for option in lower_hull(layer)] == ["dense", "unstructured@0.2"]


def test_a_uniform_plan_covers_every_layer_that_has_the_choice() -> None:
    plans = uniform_plans(toy_space())
    assert [dict(plan.choices) for plan in plans] == [
        {f"conv{i}": parse_choice(text) for i in range(4)} for text in ("block4x1@0.5", "block4x1@0.9")
    ]


def test_a_uniform_choice_that_no_layer_has_gives_no_plan() -> None:
    assert uniform_plans(toy_space(uniform=("block16x1@0.5",))) == ()


def test_seeds_begin_dense_and_are_all_different() -> None:
    seeds = seed_plans(toy_space(), 100)
    assert seeds[0].plan.choices == ()
    assert seeds[0].kind == "dense"
    assert len({seed.plan for seed in seeds}) == len(seeds)
    assert {seed.kind for seed in seeds} == {"dense", "uniform", "surrogate"}
    assert sum(seed.kind == "uniform" for seed in seeds) == 2


@given(st.integers(1, 12))
def test_fewer_seeds_are_a_beginning_of_more(limit: int) -> None:
    space = toy_space()
    few, all_of_them = seed_plans(space, limit), seed_plans(space, 100)
    assert few == all_of_them[:limit]


def test_the_first_seeds_span_the_whole_range() -> None:
    space = toy_space()
    fastest = min(figures(space, plan)[0] for plan in surrogate_plans(space))
    assert fastest in {figures(space, seed.plan)[0] for seed in seed_plans(space, 3)}


def test_a_space_without_choices_has_one_seed() -> None:
    (seed,) = seed_plans(build_space(MODEL, {"a": [offer("dense")]}), 10)
    assert seed.plan == Plan.of(MODEL, {"a": Choice()})
    assert seed.kind == "dense"
    assert seed_plans(build_space(MODEL, {}), 10) == (seed,)


def test_an_option_without_error_is_always_taken() -> None:
    offers = [offer("dense"), offer("unstructured@0.5", 0.5, 0.0)]
    space = build_space(MODEL, {"a": offers})
    assert [dict(plan.choices) for plan in surrogate_plans(space)] == [{"a": parse_choice("unstructured@0.5")}]
    assert isinstance(space.layers[0], LayerOptions)
