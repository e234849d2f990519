from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwsparse.errors import ModelError, PlanError
from hwsparse.model import Model, import_onnx
from hwsparse.pattern import Block, Unstructured
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.quantise import range_name, read_name, rounded
from hwsparse.sparsify import (
    LayerStatistics,
    achieved_ratio,
    apply_plan,
    magnitude,
    make_mask,
    pruned_proto,
)
from hwsparse.sparsify.apply import in_types
from tests.model.graphs import model_proto, node, random_feeds, run, value, weight
from tests.sparsify.networks import classifier, embedder, product


def test_magnitude_keeps_the_largest_weights_and_zeroes_the_rest() -> None:
    weight = np.array([[-3.0, 0.5, 2, -1], [0.1, -0.2, 4, 1.5]], np.float32)
    assert magnitude(weight, None, Choice(Unstructured(), 0.5)).tolist() == [[-3, 0, 2, 0], [0, 0, 4, 1.5]]
    pruned = magnitude(weight, None, parse_choice("2:4"))
    assert pruned.tolist() == [[-3, 0, 2, 0], [0, 0, 4, 1.5]]
    assert pruned.dtype == np.float32


def test_magnitude_keeps_blocks_within_a_group() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    pruned = magnitude(weight, None, Choice(Block(2), 0.5), groups=2)
    np.testing.assert_array_equal(pruned != 0, make_mask(np.abs(weight), Choice(Block(2), 0.5), 2))
    assert (pruned[2] != 0).tolist() != (pruned[3] != 0).tolist()  # the short block ends with the group


def test_a_plan_prunes_the_layers_it_names() -> None:
    model = classifier()
    choices = {"first": parse_choice("block4x1@0.5"), "grouped": parse_choice("1:4"), "last": parse_choice("2:4")}
    weights = apply_plan(model, Plan.of(model.digest, choices))
    assert list(weights) == sorted(choices)
    for name, choice in choices.items():
        pruned, dense = weights[name], model.weight(name)
        assert pruned.shape == dense.shape and pruned.dtype == np.float32
        assert achieved_ratio(pruned != 0) == pytest.approx(choice.ratio, abs=0.01)
        np.testing.assert_array_equal(pruned[pruned != 0], dense[pruned != 0])
    assert apply_plan(model, Plan(model.digest)) == {}


def test_a_pruner_is_told_what_it_needs() -> None:
    model = classifier()
    statistics = {"grouped": LayerStatistics(np.ones((4, 32, 32), np.float32), 1)}
    choice = Choice(Unstructured(), 0.5)
    seen = []

    def pruner(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int) -> np.ndarray:
        seen.append((weight.shape, statistics, choice, groups))
        return np.zeros_like(weight)

    plan = Plan.of(model.digest, {"grouped": choice, "last": choice})
    weights = apply_plan(model, plan, pruner, statistics)
    assert seen == [((16, 8, 2, 2), statistics["grouped"], choice, 4), ((10, 16), None, choice, 1)]
    assert not any(weight.any() for weight in weights.values())


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"nothing": "block4x1@0.5"}, "'nothing', which classifier does not have"),
        ({"depthwise": "unstructured@0.5"}, "'depthwise' cannot be unstructured@0.5: depthwise"),
        ({"grouped": "block8x1@0.5"}, "'grouped' cannot be block8x1@0.5: a group has 4 outputs"),
        ({"grouped": "channel@0.5"}, "'grouped' cannot be channel@0.5: 16 outputs in 4 groups"),
    ],
)
def test_a_plan_that_does_not_suit_the_model_is_refused(choices: dict[str, str], said: str) -> None:
    model = classifier()
    plan = Plan.of(model.digest, {name: parse_choice(text) for name, text in choices.items()})
    with pytest.raises(PlanError) as error:
        apply_plan(model, plan)
    assert said in str(error.value)


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match=r"not for classifier"):
        apply_plan(classifier(), Plan(embedder().digest))


def test_a_weight_that_is_not_finite_is_refused_with_its_layer() -> None:
    model = product(np.array([[1.0, np.nan], [2, 3]], np.float32))
    with pytest.raises(PlanError, match=r"'only' cannot be unstructured@0.5: .*not finite"):
        apply_plan(model, Plan.of(model.digest, {"only": parse_choice("unstructured@0.5")}))


def test_the_pruned_file_computes_with_the_pruned_weights() -> None:
    model = embedder()
    plan = Plan.uniform(model.digest, model.layers, parse_choice("2:4"))
    weights = apply_plan(model, plan)
    ids = random_feeds(model, seed=3)["ids"] % 50
    (result,) = run(pruned_proto(model, weights), {"ids": ids})
    stored = onnx.load_from_string(model.proto).graph.initializer
    table = next(numpy_helper.to_array(item) for item in stored if item.dims == [50, 12])
    expected = (table[ids] @ (weights["left"] + weights["right"]).T).mean(axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_the_pruned_file_differs_only_in_the_weights_given() -> None:
    model = classifier()
    weights = apply_plan(model, Plan.of(model.digest, {"last": parse_choice("2:4")}))
    before = {item.name: item for item in onnx.load_from_string(model.proto).graph.initializer}
    after = onnx.load_from_string(pruned_proto(model, weights))
    changed = [item.name for item in after.graph.initializer if item != before[item.name]]
    assert changed == [model.layer("last").weight]
    assert pruned_proto(model, weights) == pruned_proto(model, weights)
    del after.graph.initializer[:]
    original = onnx.load_from_string(model.proto)
    del original.graph.initializer[:]
    assert after == original


def test_weights_that_do_not_belong_are_refused() -> None:
    model = classifier()
    with pytest.raises(ModelError, match=r"'last': weight of shape \(16, 10\), not \(10, 16\)"):
        pruned_proto(model, {"last": np.zeros((16, 10), np.float32)})
    with pytest.raises(ModelError, match="neither a prunable layer nor a constant 'nothing'"):
        pruned_proto(model, {"nothing": np.zeros((10, 16), np.float32)})


@pytest.mark.parametrize(("dtype", "numbers"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_layers_read_another_type_where_it_is_said(dtype: str, numbers: Any) -> None:
    rng = np.random.default_rng(0)
    model = product(rng.standard_normal((8, 5)).astype(np.float32))
    (layer,) = model.layers
    plan = Plan.of(model.digest, {layer.name: parse_choice(f"unstructured@0.5/{dtype}")})
    weights = in_types(plan, apply_plan(model, plan))
    (name,) = (spec.name for spec in model.inputs)
    x = rng.standard_normal(model.inputs[0].shape).astype(np.float32)
    x.flat[:2] = 1e-7, 3e-6  # of float16 they are fewer digits
    near = x.astype(numbers).astype(np.float32)
    assert (near != x).all()
    (found,) = run(pruned_proto(model, weights), {name: x})
    (expected,) = run(pruned_proto(model, {layer.name: weights[layer.name]}), {name: near})
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(weights[layer.name], rounded(apply_plan(model, plan)[layer.name], dtype))


def two_products(first: str, second: str) -> Model:
    weights = [weight(name, 8, 8) for name in ("w1", "w2")]
    nodes = [node("MatMul", ["x", "w1"], ["h"], name=first), node("MatMul", ["h", "w2"], ["y"], name=second)]
    proto = model_proto(nodes, [value("x", (1, 8))], weights=weights)
    return import_onnx(proto.SerializeToString(), name="products")


@pytest.mark.parametrize("name", ["range of x", "range of h", "bfloat16 read by conv"])
def test_a_layer_of_any_name_is_a_layer(name: str) -> None:
    model = two_products(name, "conv")
    weights = apply_plan(model, Plan.of(model.digest, {name: parse_choice("2:4")}))
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    (found,) = run(pruned_proto(model, weights), {"x": x})
    np.testing.assert_allclose(found, x @ weights[name].T @ model.weight("conv").T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [range_name("x"), read_name("conv", "bfloat16"), "\0"])
def test_what_stands_among_weights_for_something_else_is_no_name_of_a_layer(name: str) -> None:
    with pytest.raises(ModelError, match="in the model holds a zero character: export it again with another name"):
        two_products(name, "conv")


def test_what_layers_read_of_float16_ends_where_it_does() -> None:
    model = product(np.eye(5, dtype=np.float32))
    (layer,) = model.layers
    told = {read_name(layer.name, "float16"): np.zeros(0, np.float32)}
    x = np.zeros(model.inputs[0].shape, np.float32)
    x.flat[:4] = 65519, 1e9, -np.inf, 2049
    (found,) = run(pruned_proto(model, told), {model.inputs[0].name: x})
    np.testing.assert_array_equal(found.flat[:4], [65504, 65504, -65504, 2048])


def test_a_weight_beyond_float16_is_refused() -> None:
    weight = np.ones((8, 5), np.float32)
    weight[2, 3] = -70_000
    model = product(weight)
    (layer,) = model.layers
    plan = Plan.of(model.digest, {layer.name: parse_choice("dense/float16")})
    with pytest.raises(
        PlanError, match="cannot be dense/float16: a weight of 70000 lies beyond 65504, the last float16"
    ):
        apply_plan(model, plan)


def test_who_reads_another_type_must_be_a_layer() -> None:
    with pytest.raises(ModelError, match="there is no layer 'nowhere', of which it is said that it reads bfloat16"):
        pruned_proto(classifier(), {read_name("nowhere", "bfloat16"): np.zeros(0, np.float32)})
