from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import strictjson
from hwsparse.errors import PlanError, StudyError
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.search import LayerOptions, Offer, Option, SearchSpace, SettledChoices, build_space
from tests.search.toy import MODEL, offer, toy_space


def texts_of(space: SearchSpace) -> dict[str, tuple[str, ...]]:
    return {layer.layer: layer.texts for layer in space.layers}


def reasons(space: SearchSpace) -> dict[str, str]:
    return {str(refusal.choice): refusal.reason for refusal in space.refused}


def test_dense_comes_first_then_what_pays_from_slow_to_fast() -> None:
    offers = [offer("2:4", 0.5, 0.2), offer("block4x1@0.9", 0.2, 0.4), offer("dense", 1.0)]
    assert texts_of(build_space(MODEL, {"a": offers})) == {"a": ("dense", "2:4", "block4x1@0.9")}


def test_what_is_not_faster_beyond_the_noise_is_refused() -> None:
    dense = offer("dense", 1.0, noise=0.1)
    slower, hidden = offer("2:4", 1.2, 0.1), offer("block4x1@0.5", 0.85, 0.1, noise=0.06)
    clear = offer("block4x1@0.9", 0.8, 0.2, noise=0.05)
    space = build_space(MODEL, {"a": [dense, slower, hidden, clear]})
    assert texts_of(space) == {"a": ("dense", "block4x1@0.9")}
    assert set(reasons(space)) == {"2:4", "block4x1@0.5"}
    assert all("beyond the noise" in reason for reason in reasons(space).values())


def test_the_callers_refusal_keeps_its_reason() -> None:
    refused = Offer(parse_choice("2:4"), refused="no kernel on this target")
    space = build_space(MODEL, {"a": [offer("dense"), refused]})
    assert reasons(space) == {"2:4": "no kernel on this target"}
    assert space.free == ()


def test_a_beaten_option_is_left_out_unless_uniform_plans_need_it() -> None:
    offers = [offer("dense"), offer("unstructured@0.9", 0.5, 0.3), offer("block4x1@0.9", 0.4, 0.2)]
    space = build_space(MODEL, {"a": offers})
    assert texts_of(space) == {"a": ("dense", "block4x1@0.9")}
    assert reasons(space) == {"unstructured@0.9": "block4x1@0.9 is no slower and no less accurate"}
    spared = build_space(MODEL, {"a": offers}, uniform=[parse_choice("unstructured@0.9")])
    assert texts_of(spared) == {"a": ("dense", "unstructured@0.9", "block4x1@0.9")}


def test_what_others_are_held_to_stays_whether_or_not_it_pays() -> None:
    slower = parse_choice("dense/int8")
    offers = [offer("dense"), offer("dense/int8", 1.5, 0.1), offer("unstructured@0.9/int8", 0.5, 0.3)]
    assert texts_of(build_space(MODEL, {"a": offers}, uniform=[slower]))["a"] == ("dense", "unstructured@0.9/int8")
    space = build_space(MODEL, {"a": offers}, uniform=[slower], baseline=slower)
    assert texts_of(space)["a"] == ("dense", "dense/int8", "unstructured@0.9/int8")
    assert space.uniformly(slower) == Plan.of(MODEL, {"a": slower})
    refused = Offer(slower, refused="no kernel")
    assert texts_of(build_space(MODEL, {"a": [offer("dense"), refused]}, baseline=slower))["a"] == ("dense",)


def test_of_equal_options_one_stays() -> None:
    offers = [offer("dense"), offer("unstructured@0.9", 0.5, 0.3), offer("block4x1@0.9", 0.5, 0.3)]
    assert texts_of(build_space(MODEL, {"a": offers})) == {"a": ("dense", "block4x1@0.9")}


figures = st.floats(0.01, 2.0)


@given(st.lists(st.tuples(figures, st.floats(0, 1)), max_size=8))
def test_what_stays_is_what_brute_force_finds_undominated(points: list[tuple[float, float]]) -> None:
    offers = [offer(f"unstructured@{0.1 + 0.1 * i:.1f}", *point) for i, point in enumerate(points)]
    space = build_space(MODEL, {"a": [offer("dense"), *offers]})
    found = {(option.latency_s, option.error) for option in space.layers[0].options[1:]}
    paying = {point for point in points if point[0] < 1.0}
    expected = {p for p in paying if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in paying)}
    assert found == expected
    assert len(space.layers[0].options) - 1 == len(expected)


def test_plans_and_texts_are_inverse() -> None:
    space = toy_space()
    plan = space.plan({"conv1": "2:4", "conv3": "dense"})
    assert plan == Plan.of(MODEL, {"conv1": parse_choice("2:4")})
    texts = SettledChoices.of(space).texts(plan)
    assert texts == {"conv0": "dense", "conv1": "2:4", "conv2": "dense", "conv3": "dense"}
    assert space.plan(texts) == plan


def test_a_plan_outside_the_space_is_refused() -> None:
    with pytest.raises(PlanError, match="no 'conv9'"):
        toy_space().plan({"conv9": "dense"})
    with pytest.raises(PlanError, match="no '1:4'"):
        toy_space().plan({"conv0": "1:4"})


def test_layers_with_nothing_that_pays_are_fixed() -> None:
    space = toy_space()
    assert [layer.layer for layer in space.free] == ["conv0", "conv1", "conv2", "conv3"]


def test_a_study_that_goes_on_keeps_what_can_be_had() -> None:
    refused = Offer(parse_choice("1:4"), refused="could not be measured")
    offers = [offer("dense"), offer("2:4", 2.0, 0.1), offer("block4x1@0.5", 0.5, 0.1), refused]
    offers.append(offer("block4x1@0.9", 0.4, 0.05))
    space = build_space(MODEL, {"a": offers}, settled=True)
    assert texts_of(space) == {"a": ("dense", "2:4", "block4x1@0.5", "block4x1@0.9")}
    assert reasons(space) == {"1:4": "could not be measured"}


def test_a_space_allows_its_own_plans_and_no_others() -> None:
    space = toy_space()
    assert space.allows(Plan(MODEL))
    assert space.allows(space.plan({"conv1": "2:4"}))
    for model, layer, text in (("ef" * 32, "conv1", "2:4"), (MODEL, "conv9", "2:4"), (MODEL, "conv1", "1:4")):
        assert not space.allows(Plan.of(model, {layer: parse_choice(text)}))


def test_settled_choices_are_read_back_as_they_were() -> None:
    settled = SettledChoices.of(toy_space())
    assert strictjson.loads(SettledChoices, strictjson.dumps(settled), "test") == settled
    assert [name for name, _ in settled.layers] == ["conv0", "conv1", "conv2", "conv3"]
    assert settled.sparse("head") == settled.sparse("nowhere") == ()
    assert {str(choice) for choice in settled.sparse("conv0")} == set(toy_space().layers[0].texts) - {"dense"}


TWICE = offer("2:4", 0.5, 0.1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_space(MODEL, {"a": [offer("2:4")]}),
        lambda: build_space(MODEL, {"a": [offer("dense"), TWICE, TWICE]}, uniform=[TWICE.choice]),
        lambda: offer("dense", math.nan),
        lambda: offer("2:4", 0.5, -1.0),
        lambda: LayerOptions("a", (Option(parse_choice("2:4"), 1.0, 0.0),)),
        lambda: SearchSpace(MODEL, (LayerOptions("a", (Option(Choice(), 1.0, 0.0),)),) * 2),
    ],
)
def test_nonsense_is_refused(build) -> None:
    with pytest.raises(StudyError):
        build()
