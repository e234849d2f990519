from __future__ import annotations

import numpy as np

from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import Size, Sizes, apply_plan
from tests.model.graphs import model_proto, node, stored, value
from tests.sparsify.test_quality import classifier


def biased() -> Model:
    """A layer with a bias; both have zeros of their own."""
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], "it")]
    weights = [stored("w", np.eye(4, dtype=np.float32)), stored("b", np.array([1, 0, 3, 4], np.float32))]
    return import_onnx(model_proto(nodes, [value("x", (1, 4))], [value("y", (1, 4))], weights).SerializeToString())


def test_a_dense_network_is_as_large_as_its_file_says() -> None:
    model = classifier()
    assert Sizes(model).of_weights({}) == Size(sum(layer.macs for layer in model.layers), 32 * 16 * 9 + 32 * 4)
    assert Sizes(model).of_plan(Plan(model.digest)) == Sizes(model).of_weights({})


def test_what_is_zero_does_not_count() -> None:
    model, choice = classifier(), parse_choice("block4x1@0.75")
    plan = Plan.of(model.digest, {"conv": choice})
    conv, head = model.layer("conv"), model.layer("head")
    expected = Size(conv.macs // 4 + head.macs, 32 * 16 * 9 // 4 + 32 * 4)
    assert Sizes(model).of_weights(apply_plan(model, plan)) == expected == Sizes(model).of_plan(plan)
    gone = Sizes(model).of_weights({"conv": np.zeros(conv.weight_shape, np.float32)})
    assert gone == Size(head.macs, 32 * 4)


def test_zeros_that_were_always_there_do_not_count() -> None:
    assert Sizes(biased()).of_weights({}) == Size(4, 4 + 3)


def test_constants_that_took_the_place_of_others_count_once() -> None:
    sizes, bias = Sizes(biased()), np.array([5, 6, 7, 8], np.float32)
    assert sizes.of_weights({"b": bias}) == Size(4, 4 + 4)
    assert sizes.of_weights({"b": 0 * bias, "it": np.diag([1, 1, 0, 0]).astype(np.float32)}) == Size(2, 2)
