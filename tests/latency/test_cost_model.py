from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import MeasureError, PlanError
from hwsparse.latency import CostModel, Measurement, Prediction, Workload
from hwsparse.latency.drift import AGAIN
from hwsparse.model import Model
from hwsparse.pattern import NM, Block, Unstructured
from hwsparse.plan import Choice, Layer, Plan, parse_signature
from hwsparse.work import Work
from tests.latency.examples import TARGET, conv, matmul, measurement


def again(low: float, high: float) -> tuple[float, float]:
    """Where another run may find what one run knows to lie between two times."""
    return low * (1 - AGAIN), high * (1 + AGAIN)


def entry(layer: Layer, choice: Choice, low_s: float, high_s: float | None = None) -> tuple[Workload, Measurement]:
    """A measurement whose quiet time lies in the middle of its interval."""
    workload = Workload.of(layer, choice, TARGET)
    high_s = high_s or low_s
    samples = [low_s] * 2 + [(low_s + high_s) / 2] * 6 + [high_s] * 32
    return workload, measurement(workload, *samples)


def model(*layers: Layer, name: str = "net") -> Model:
    proto = name.encode()
    return Model(name, proto, hashlib.sha256(proto).hexdigest(), layers, (), ())


def block(ratio: float) -> Choice:
    return Choice(Block(4), ratio)


def predict(costs: CostModel, layer: Layer, choice: Choice) -> Prediction:
    return costs.predict(Workload.of(layer, choice, TARGET))


LAYERS = matmul("a"), conv("b"), matmul("c")
TABLE = dict(
    [
        entry(matmul(), Choice(), 4.0, 4.2),
        entry(matmul(), block(0.5), 3.0, 3.4),
        entry(matmul(), block(0.9), 1.0, 1.2),
        entry(conv(), Choice(), 10.0),
        entry(conv(), block(0.5), 12.0),
        entry(conv(), Choice(NM(2, 4), 0.5), 6.0),
    ]
)
COSTS = CostModel.fit(TABLE)


@pytest.mark.parametrize("workload", TABLE, ids=str)
def test_a_measured_workload_is_its_measurement(workload: Workload) -> None:
    taken = TABLE[workload]
    assert COSTS.predict(workload) == Prediction(taken.quiet_s, again(*taken.quiet_interval_s), True, "measured")


def test_what_is_known_of_a_layer_is_what_was_measured_of_it() -> None:
    for signature in (matmul().signature, conv().signature):
        known = {each.choice: each.seconds for each in COSTS.known(signature)}
        assert known == {
            workload.choice: taken.quiet_s for workload, taken in TABLE.items() if workload.signature == signature
        }
        # It is asked for at every prediction: it is not made anew.
        assert COSTS.known(signature) is COSTS.known(signature)
    assert COSTS.known(matmul(outputs=99).signature) == ()


def test_the_kernels_to_compile_with_are_those_that_were_measured_at_the_nearest_ratio() -> None:
    kernels = {
        Choice(): "plain", block(0.5): "first", block(0.9): "second", Choice(NM(2, 4), 0.5): None,
    }  # fmt: skip
    table = {
        workload: replace(taken, kernel=kernels[workload.choice])
        for workload, taken in (entry(matmul(), choice, 1.0) for choice in kernels)
    }
    network, costs = model(matmul("a"), matmul("b"), matmul("c"), conv("unmeasured")), CostModel.fit(table)
    plan = Plan.of(network.digest, {"b": block(0.75), "c": Choice(NM(2, 4), 0.5)})
    assert costs.kernels(network, plan) == {"a": "plain", "b": "second"}
    assert costs.kernels(network, Plan.of(network.digest, {"b": block(0.6)}))["b"] == "first"


def test_simulated_stays_simulated_and_does_not_mix() -> None:
    workload, taken = entry(matmul(), Choice(), 1.0)
    simulated = replace(taken, source="simulated")
    assert CostModel.fit({workload: simulated}).predict(workload).source == "simulated"
    with pytest.raises(MeasureError, match="measured, simulated and imported"):
        CostModel.fit({workload: simulated} | dict([entry(conv(), Choice(), 1.0)]))


def test_measurements_at_a_slower_clock_count_as_if_it_had_been_the_usual_one() -> None:
    slow = {workload: replace(taken, reference_s=1.0) for workload, taken in TABLE.items()}
    dense, taken = entry(matmul(), Choice(), 5.0, 5.25)
    costs = CostModel.fit(slow | {dense: replace(taken, reference_s=1.25)})
    assert costs.predict(dense).latency_s == pytest.approx(4.1)
    assert costs.predict(dense).interval_s == pytest.approx(again(4.0, 4.2))
    assert predict(costs, matmul(), block(0.5)).latency_s == pytest.approx(3.2)
    net = model(*LAYERS)
    whole = measurement(Workload("whole", Choice(), TARGET.name, 1), 30.0, reference_s=1.5)
    assert costs.fit_network(net, [(Plan(net.digest), whole)]).predict_model(net, Plan(net.digest)).latency_s == (
        pytest.approx(20.0)
    )


def test_between_two_ratios_lies_a_line_and_both_intervals() -> None:
    between = predict(COSTS, matmul(), block(0.7))
    assert between.latency_s == pytest.approx((3.2 + 1.1) / 2)
    assert between.interval_s == pytest.approx(again(1.0, 3.4))
    assert (between.in_domain, between.source) == (True, "predicted")


@pytest.mark.parametrize(("ratio", "nearest_s"), [(0.1, 3.2), (0.95, 1.1)])
def test_beyond_the_measured_ratios_nothing_is_claimed(ratio: float, nearest_s: float) -> None:
    beyond = predict(COSTS, matmul(), block(ratio))
    assert (beyond.latency_s, beyond.in_domain, beyond.source) == (nearest_s, False, "predicted")


curves = st.dictionaries(st.integers(0, 100), st.floats(1e-6, 1.0), min_size=1, max_size=8)


@given(curves, st.integers(0, 100))
def test_a_prediction_stays_between_its_neighbours_whatever_the_curve(curve: dict[int, float], ratio: int) -> None:
    costs = CostModel.fit(dict(entry(matmul(), block(at / 100), seconds) for at, seconds in curve.items()))
    predicted = predict(costs, matmul(), block(ratio / 100))
    assert predicted.in_domain == (min(curve) <= ratio <= max(curve))
    below = max((at for at in curve if at <= ratio), default=min(curve))
    above = min((at for at in curve if at >= ratio), default=max(curve))
    low, high = sorted((curve[below], curve[above]))
    assert low * (1 - 1e-9) <= predicted.latency_s <= high * (1 + 1e-9)
    assert predicted.interval_s == pytest.approx(again(low, high))
    assert predicted.source == ("measured" if ratio in curve else "predicted")


def test_what_was_never_measured_is_an_error_that_says_what_to_measure() -> None:
    with pytest.raises(MeasureError, match=r"matmul 1x16 w8x16 float32 as unstructured .* never measured"):
        predict(COSTS, matmul(), Choice(Unstructured(), 0.5))
    with pytest.raises(MeasureError, match="w9x16"):
        predict(COSTS, matmul(outputs=9), Choice())
    assert COSTS.knows(matmul(), block(0.1))
    assert not COSTS.knows(matmul(), Choice(Unstructured(), 0.5))
    assert not COSTS.knows(matmul(outputs=9), Choice())


@pytest.mark.parametrize("change", [{"name": "other"}, {"threads": 3, "cores": 4}])
def test_another_target_is_an_error(change: dict[str, object]) -> None:
    target = replace(TARGET, **change)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match="this cost model is of test-cpu with 1 threads"):
        COSTS.predict(Workload.of(matmul(), Choice(), target))
    with pytest.raises(MeasureError, match="this cost model is of"):
        COSTS.pays(matmul(), block(0.9), target)


def test_a_model_needs_measurements_of_one_target() -> None:
    with pytest.raises(MeasureError, match="these are on none"):
        CostModel.fit({})
    other = Workload("s", Choice(), "other", 1)
    with pytest.raises(MeasureError, match="one target"):
        CostModel.fit({**TABLE, other: measurement(other, 1.0)})


def test_a_choice_pays_when_it_is_faster_beyond_noise() -> None:
    assert COSTS.pays(matmul(), block(0.9), TARGET)
    assert COSTS.pays(matmul(), block(0.7), TARGET)
    assert COSTS.pays(conv(), Choice(NM(2, 4), 0.5), TARGET)
    assert not COSTS.pays(conv(), block(0.5), TARGET)
    assert not COSTS.pays(matmul(), Choice(), TARGET)
    assert not COSTS.pays(matmul(), block(0.95), TARGET)  # never measured so sparse
    touching = CostModel.fit(dict([entry(matmul(), Choice(), 1.0, 1.2), entry(matmul(), block(0.5), 0.9, 1.0)]))
    assert not touching.pays(matmul(), block(0.5), TARGET)


def test_a_choice_may_be_held_to_another_dense_layer_than_the_models_own() -> None:
    assert COSTS.pays(matmul(), block(0.9), TARGET) and not COSTS.pays(matmul(), block(0.9), TARGET, block(0.9))
    assert not COSTS.pays(matmul(), Choice(), TARGET, block(0.9)) and COSTS.pays(matmul(), block(0.9), TARGET, Choice())
    dense, sparse = COSTS.compared(matmul(), block(0.9), TARGET, block(0.7))
    assert dense == COSTS.predict(Workload.of(matmul(), block(0.7), TARGET))
    assert sparse == COSTS.predict(Workload.of(matmul(), block(0.9), TARGET))


def test_a_networks_layers_add_up() -> None:
    net = model(*LAYERS)
    plan = Plan.of(net.digest, {"a": block(0.9), "b": Choice(NM(2, 4), 0.5)})
    total = COSTS.compose(net, plan)
    assert total.latency_s == pytest.approx(1.1 + 6.0 + 4.1)
    assert total.interval_s == pytest.approx(again(1.0 + 6.0 + 4.0, 1.2 + 6.0 + 4.2))
    assert total.in_domain
    assert total.source == "predicted"


def test_a_network_never_measured_is_out_of_the_domain() -> None:
    net = model(*LAYERS)
    predicted = COSTS.predict_model(net, Plan(net.digest))
    assert predicted.latency_s == pytest.approx(18.2)
    assert not predicted.in_domain


PLANS = (
    {},
    {"a": block(0.5)},
    {"a": block(0.9), "c": block(0.9)},
    {"b": Choice(NM(2, 4), 0.5), "c": block(0.9)},
)


def fitted(net: Model, scale: float, offset_s: float) -> CostModel:
    pairs = []
    for choices in PLANS:
        plan = Plan.of(net.digest, choices)
        taken = scale * COSTS.compose(net, plan).latency_s + offset_s
        pairs.append((plan, measurement(Workload("whole", Choice(), TARGET.name, 1), taken)))
    return COSTS.fit_network(net, pairs)


def test_a_network_is_predicted_from_other_plans_of_it() -> None:
    net, other = model(*LAYERS), model(*LAYERS, name="other")
    costs = fitted(net, 1.1, 2.0)
    unseen = Plan.of(net.digest, {"a": block(0.5), "b": Choice(NM(2, 4), 0.5)})
    predicted = costs.predict_model(net, unseen)
    assert predicted.latency_s == pytest.approx(1.1 * (3.2 + 6.0 + 4.1) + 2.0)
    assert predicted.in_domain
    assert predicted.source == "predicted"
    assert predicted.interval_s[0] < predicted.latency_s < predicted.interval_s[1]
    assert not costs.predict_model(other, Plan(other.digest)).in_domain
    assert COSTS.residuals == {}
    assert list(costs.residuals) == [net.digest]


def test_a_plan_out_of_the_fitted_or_measured_range_is_out_of_the_domain() -> None:
    net = model(*LAYERS)
    costs = fitted(net, 1.0, 1.0)
    sparser = {"a": block(0.9), "b": Choice(NM(2, 4), 0.5), "c": block(0.9)}
    assert not costs.predict_model(net, Plan.of(net.digest, sparser)).in_domain
    assert not costs.predict_model(net, Plan.of(net.digest, {"a": block(0.1)})).in_domain


def test_a_ratio_with_rounding_error_is_the_measured_one() -> None:
    net = model(matmul("a"))
    plan = Plan(net.digest, (("a", block(0.3 * 3)),))
    assert 0.3 * 3 != 0.9
    assert COSTS.compose(net, plan).in_domain


def test_plans_that_do_not_belong_to_the_network_are_errors() -> None:
    net = model(*LAYERS)
    with pytest.raises(PlanError, match="another model than net"):
        COSTS.predict_model(net, Plan("0" * 64))
    with pytest.raises(PlanError, match="no prunable layer 'z'"):
        COSTS.predict_model(net, Plan.of(net.digest, {"z": block(0.5)}))
    empty = model()
    with pytest.raises(MeasureError, match="no prunable layers"):
        COSTS.predict_model(empty, Plan(empty.digest))


def test_a_pipelines_pace_is_that_of_its_slowest_stage() -> None:
    first, second = matmul("a"), matmul("b", outputs=64)
    net = model(first, second)
    table = dict(
        entry(layer, choice, seconds)
        for layer, times in ((first, (1.0, 0.5)), (second, (3.0, 0.8)))
        for choice, seconds in zip((Choice(), block(0.5)), times, strict=True)
    )
    costs = CostModel.fit(table, pipelined=True)
    assert costs.compose(net, Plan(net.digest)).latency_s == 3.0
    assert costs.compose(net, Plan.of(net.digest, {"b": block(0.5)})).latency_s == 1.0
    assert costs.compose(net, Plan.of(net.digest, {"a": block(0.5)})).latency_s == 3.0
    assert CostModel.fit(table).compose(net, Plan(net.digest)).latency_s == 4.0


def described(signature: str, choice: Choice, kernel: str | None) -> Work | None:
    """Work of the tests' products: their multiply-adds."""
    layer = parse_signature(signature)
    if layer.window is not None:
        return None
    kept = layer.macs * (1 - choice.ratio)
    return Work("product", {"multiply-adds": kept}, {"rows": layer.outputs}, (choice.ratio,), 4 * kept)


def test_what_was_not_measured_is_learned_from_what_was() -> None:
    table = dict(
        entry(matmul(outputs=outputs), block(ratio), 1e-9 * outputs * 16 * (1 - ratio))
        for outputs in (8, 16, 24, 32, 40, 48, 56, 64)
        for ratio in (0.3, 0.5, 0.7, 0.9)
    )
    costs = CostModel.fit(table)
    with pytest.raises(MeasureError, match="never measured"):
        predict(costs, matmul(outputs=20), block(0.5))
    learned = costs.learn(described)
    exact = predict(learned, matmul(outputs=16), block(0.5))
    assert (exact.source, exact) == ("measured", predict(costs, matmul(outputs=16), block(0.5)))
    for layer, ratio in ((matmul(outputs=20), 0.5), (matmul(outputs=16), 0.6)):
        guess = predict(learned, layer, block(ratio))
        assert (guess.source, guess.in_domain) == ("predicted", True)
        assert guess.latency_s == pytest.approx(1e-9 * layer.outputs * 16 * (1 - ratio), rel=0.1)
        assert guess.interval_s[0] <= guess.latency_s <= guess.interval_s[1]
    assert not predict(learned, matmul(outputs=8000), block(0.5)).in_domain
    with pytest.raises(MeasureError, match="no kernel serves it"):
        predict(learned, conv(), block(0.5))


def test_too_few_layers_teach_nothing() -> None:
    with pytest.raises(MeasureError, match="1 layers are measured"):
        COSTS.learn(described)
