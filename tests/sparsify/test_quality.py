"""Quality against plain references, and that pruned weights really are the ones that are evaluated."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwsparse.data import Dataset
from hwsparse.errors import DataError, PlanError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import Evaluator, apply_plan, pruned_proto
from hwsparse.sparsify.quality import ranks, spearman


def classifier(channels: int = 32) -> Model:
    """A convolution that onnxruntime's layout optimiser takes, pooling, and four classes."""
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.standard_normal((channels, 16, 3, 3)) * 0.1,
        "v": rng.standard_normal((channels, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="classifier")


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier()


@pytest.fixture(scope="module")
def data(model: Model) -> Dataset:
    """Labels are the dense model's own answers."""
    x = np.random.default_rng(1).standard_normal((24, 16, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    return Dataset("own", {"x": x}, np.array([session.run(None, {"x": row[None]})[0].argmax() for row in x]))


def test_pruned_weights_are_the_ones_evaluated(model: Model, data: Dataset) -> None:
    evaluator = Evaluator(model, data, "calibration", threads=2)
    dense = evaluator.evaluate({})
    assert (dense.value, dense.samples, dense.metric) == (1.0, 24, "top1")
    for layer in model.layers:
        gone = evaluator.evaluate({layer.name: np.zeros(layer.weight_shape, np.float32)})
        assert gone.value == np.mean(data.labels == 0)  # all outputs are equal, and the first is taken


def test_top1_is_what_onnxruntime_gives_on_the_pruned_file(model: Model, data: Dataset) -> None:
    weights = apply_plan(model, Plan.of(model.digest, {"conv": parse_choice("block4x1@0.9")}))
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"x": row[None]})[0].argmax() for row in data.inputs["x"]]
    report = Evaluator(model, data, "held-out", seed=3).evaluate(weights)
    assert report.value == np.mean(np.array(answers) == data.labels)
    assert report.interval[0] <= report.value <= report.interval[1]
    assert report == Evaluator(model, data, "held-out", seed=3).evaluate(weights)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_is_the_correlation_of_ranks(pairs: list[tuple[int, int]]) -> None:
    values, labels = (np.array(side, np.float64) for side in zip(*pairs, strict=True))

    def rank(side: np.ndarray) -> list[float]:
        return [float((side < v).sum() + ((side == v).sum() - 1) / 2) for v in side]

    assert ranks(values).tolist() == rank(values)
    angles = values / 10  # cosines fall as angles grow
    outputs = np.stack([np.ones_like(angles), np.zeros_like(angles), np.cos(angles), np.sin(angles)], 1).reshape(-1, 2)
    found = spearman(outputs, labels)(np.arange(len(labels)))
    if len(set(values)) == 1 or len(set(labels)) == 1:
        assert found == 0.0
    else:
        assert found == pytest.approx(-np.corrcoef(rank(values), rank(labels))[0, 1], abs=1e-9)


def test_data_that_do_not_fit_are_refused(model: Model) -> None:
    x = np.zeros((4, 16, 12, 12), np.float32)
    with pytest.raises(DataError, match="label 7"):
        Evaluator(model, Dataset("bad", {"x": x}, np.array([0, 1, 2, 7])), "calibration")
    with pytest.raises(DataError, match="has inputs z"):
        Evaluator(model, Dataset("bad", {"z": x}, np.array([0, 1, 2, 3])), "calibration")


def test_plans_that_do_not_fit_are_refused(model: Model) -> None:
    choice = parse_choice("unstructured@0.5")
    with pytest.raises(PlanError, match="not for classifier"):
        apply_plan(model, Plan.of("0" * 64, {"conv": choice}))
    with pytest.raises(PlanError, match=r"'nope', which classifier does not have"):
        apply_plan(model, Plan.of(model.digest, {"nope": choice}))
    with pytest.raises(PlanError, match="layer 'head' cannot be block8x1"):
        apply_plan(model, Plan.of(model.digest, {"head": parse_choice("block8x1@0.5")}))
    with pytest.raises(PlanError, match="shape"):
        pruned_proto(model, {"head": np.zeros((4, 4), np.float32)})
