"""Second moments, output errors and fitted weights against the layer itself, computed by onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Layer, parse_choice
from hwsparse.sparsify import collect_statistics, make_mask, output_error, reconstruct, wanda
from tests.codegen.layers import convs, onnxruntime_answer, product, products


def model_of(layer: Layer, weight: np.ndarray) -> Model:
    """A model of one layer, with batch 1 as data sets have it."""
    shape = (1, *layer.input_shape[1:])
    if layer.window is None:
        node = helper.make_node("MatMul", ["x", "w"], ["y"], "l")
        weight = np.ascontiguousarray(weight.T)
    else:
        window = layer.window
        pads = [begin for begin, _ in window.pads] + [end for _, end in window.pads]
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], "l",
            strides=window.strides, pads=pads, dilations=window.dilations, group=window.groups,
        )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, *layer.output_shape[1:]))],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="one")


def data_of(x: np.ndarray) -> Dataset:
    return Dataset("data", {"x": x}, np.arange(len(x)))


def answer(layer: Layer, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The layer's output without bias, float64, for all samples of x."""
    outputs = []
    for row in x:
        one = Layer(
            "l", layer.op, "w", layer.weight_shape, (1, *row.shape), (1, *layer.output_shape[1:]), 1, layer.window
        )  # fmt: skip
        outputs.append(onnxruntime_answer(one, row[None], weight, np.zeros(layer.outputs, np.float32)))
    return np.concatenate(outputs).astype(np.float64)


LAYERS = st.one_of(convs(), products().filter(lambda layer: len(layer.input_shape) > 2))


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.integers(0, 99), st.sampled_from((0.0, 0.5, 1.0)))
def test_the_error_is_that_of_the_outputs(layer: Layer, seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, *layer.input_shape[1:])).astype(np.float32)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    model = model_of(layer, weight)
    (found,) = model.layers
    statistics = collect_statistics(model, data_of(x), model.layers)[found.name]
    pruned = wanda(weight, statistics, parse_choice(f"unstructured@{ratio}"), layer.groups)
    dense, sparse = answer(layer, x, weight), answer(layer, x, pruned)
    expected = np.square(dense - sparse).sum() / max(np.square(dense).sum(), 1e-30)
    assert output_error(weight, pruned, statistics) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    LAYERS,
    st.integers(0, 99),
    st.sampled_from(("unstructured@0.5", "block2x1@0.5", "unstructured@1", "unstructured@0")),
)
def test_fitted_weights_keep_the_mask_and_lower_the_error(layer: Layer, seed: int, text: str) -> None:
    if text.startswith("block") and layer.outputs // layer.groups < 2:
        text = "unstructured@0.5"
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, *layer.input_shape[1:])).astype(np.float32)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    model = model_of(layer, weight)
    statistics = collect_statistics(model, data_of(x), model.layers)[model.layers[0].name]
    choice = parse_choice(text)
    masked = wanda(weight, statistics, choice, layer.groups)
    fitted = reconstruct(weight, statistics, choice, layer.groups)
    assert not fitted[masked == 0].any()
    assert output_error(weight, fitted, statistics) <= output_error(weight, masked, statistics) + 1e-2


def test_fitting_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(0)
    layer = product((1, 200), 12, 5)
    x = (rng.standard_normal((2, 200, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)
    weight = rng.standard_normal((5, 12)).astype(np.float32)
    model = model_of(layer, weight)
    statistics = collect_statistics(model, data_of(x), model.layers)[model.layers[0].name]
    fitted = reconstruct(weight, statistics, parse_choice("unstructured@0.5"))
    rows = x.reshape(-1, 12).astype(np.float64)
    scale = np.sqrt(0.01 * np.mean(np.diag(rows.T @ rows)))  # the damping, as rows of a ridge regression
    for row in range(5):
        kept = np.flatnonzero(fitted[row])
        left = np.vstack([rows[:, kept], scale * np.eye(12)[:, kept]])
        right = np.concatenate([rows @ weight[row], scale * weight[row]])
        expected = np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose(fitted[row, kept], expected, rtol=2e-2, atol=2e-3)


def test_without_statistics_magnitude_decides() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    choice = parse_choice("unstructured@0.5")
    expected = weight * make_mask(np.abs(weight), choice)
    np.testing.assert_array_equal(reconstruct(weight, None, choice), expected)
    np.testing.assert_array_equal(wanda(weight, None, choice), expected)


def test_dead_inputs_leave_the_mask_as_it_is() -> None:
    layer = product((1, 4), 6, 3)
    weight = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    model = model_of(layer, weight)
    statistics = collect_statistics(model, data_of(np.zeros((2, 4, 6), np.float32)), model.layers)
    fitted = reconstruct(weight, statistics[model.layers[0].name], parse_choice("unstructured@0.5"))
    assert np.isfinite(fitted).all() and output_error(weight, fitted, statistics[model.layers[0].name]) == 0


def test_a_layer_does_not_depend_on_which_others_are_asked_for() -> None:
    layer = product((1, 700), 4, 4)  # more positions than are taken
    weight = np.ones((4, 4), np.float32)
    model = model_of(layer, weight)
    x = np.random.default_rng(0).standard_normal((3, 700, 4)).astype(np.float32)
    first, again = (collect_statistics(model, data_of(x), model.layers, seed=3) for _ in range(2))
    name = model.layers[0].name
    np.testing.assert_array_equal(first[name].second_moment, again[name].second_moment)
    assert first[name].positions == 3 * 512


def test_an_input_that_is_not_finite_is_named() -> None:
    layer = product((1, 4), 6, 3)
    model = model_of(layer, np.full((3, 6), 1e30, np.float32))
    data = data_of(np.ones((2, 4, 6), np.float32))
    object.__setattr__(data, "inputs", {"x": np.full((2, 4, 6), np.inf, np.float32)})
    with pytest.raises(DataError, match="layer 'l': its input is not finite on sample"):
        collect_statistics(model, data, model.layers)
