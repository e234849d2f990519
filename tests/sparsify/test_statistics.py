"""Second moments, output errors and fitted weights against the layer itself, computed by onnxruntime."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Layer, parse_choice
from hwsparse.sparsify import (
    PRUNERS,
    LayerStatistics,
    collect_statistics,
    magnitude,
    output_error,
    pruned_proto,
    statistics,
    wanda,
)
from tests.codegen.layers import convs, onnxruntime_answer, product, products
from tests.model.graphs import model_proto, node, run, value
from tests.model.graphs import weight as stored_weight
from tests.sparsify import networks
from tests.sparsify.networks import classifier, embedder, images, sentences


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
    with mock.patch.object(statistics, "MAX_POSITIONS", 10_000):  # a share of positions would give an estimate only
        moments = collect_statistics(model, data_of(x), model.layers)[found.name]
    pruned = wanda(weight, moments, parse_choice(f"unstructured@{ratio}"), layer.groups)
    dense, sparse = answer(layer, x, weight), answer(layer, x, pruned)
    expected = np.square(dense - sparse).sum() / max(np.square(dense).sum(), 1e-30)
    assert output_error(weight, pruned, moments) == pytest.approx(expected, rel=1e-3, abs=1e-5)


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


def rows(matrix: np.ndarray, samples: np.ndarray) -> tuple[Model, Dataset]:
    """A matrix product and samples for it."""
    labels = np.arange(len(samples)) % 2
    return networks.product(matrix.astype(np.float32)), Dataset("rows", {"x": samples.astype(np.float32)}, labels)


def outputs(model: Model, dataset: Dataset, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The model's answers to every sample, without any optimisation."""
    proto = pruned_proto(model, weights)
    feeds = ({name: values[i : i + 1] for name, values in dataset.inputs.items()} for i in range(dataset.rows))
    return np.stack([run(proto, feed)[0] for feed in feeds]).astype(np.float64)


def error_by_running(model: Model, dataset: Dataset, weights: dict[str, np.ndarray]) -> float:
    before, after = outputs(model, dataset, {}), outputs(model, dataset, weights)
    return float(np.square(after - before).sum() / np.square(before).sum())


def test_every_layer_of_a_network_sees_its_own_input() -> None:
    model, data = classifier(), images()
    found = collect_statistics(model, data, model.layers)
    assert list(found) == [layer.name for layer in model.layers]
    for layer in model.layers:
        out = layer.output_shape
        assert found[layer.name].positions == len(data) * int(np.prod(out)) // out[1]
    # The last layer's error is that of the network.
    pruned = magnitude(model.weight("last"), None, parse_choice("unstructured@0.5"))
    assert output_error(model.weight("last"), pruned, found["last"]) == pytest.approx(
        error_by_running(model, data, {"last": pruned}), rel=1e-3
    )


def test_layers_that_read_the_same_tensor_each_see_their_own_patches() -> None:
    kinds = {"small": {}, "strided": {"strides": [2, 2]}, "wide": {}, "square": {"pads": [1, 1, 1, 1]}}
    shapes = {"small": (4, 2, 1, 4), "strided": (4, 2, 1, 4), "wide": (4, 2, 2, 2), "square": (4, 2, 2, 2)}
    nodes = [node("Conv", ["x", f"w_{name}"], [name], name=name, **kinds[name]) for name in kinds]
    outputs = [value(name, None) for name in kinds]
    weights = [stored_weight(f"w_{name}", *shape) for name, shape in shapes.items()]
    model = import_onnx(model_proto(nodes, [value("x", [1, 2, 5, 6])], outputs, weights).SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 6)).astype(np.float32)
    data = Dataset("random", {"x": x}, np.array([0, 1]))
    found = collect_statistics(model, data, model.layers)
    assert {name: one.positions for name, one in found.items()} == {
        "small": 30,
        "strided": 12,
        "wide": 40,
        "square": 84,
    }
    for layer in model.layers:
        pruned = magnitude(model.weight(layer.name), None, parse_choice("unstructured@0.5"))
        proto = pruned_proto(model, {layer.name: pruned})
        at = list(kinds).index(layer.name)
        before, after = (
            np.stack([run(one, {"x": x[i : i + 1]})[at] for i in range(2)]).astype(np.float64)
            for one in (model.proto, proto)
        )
        by_running = np.square(after - before).sum() / np.square(before).sum()
        error = output_error(model.weight(layer.name), pruned, found[layer.name])
        assert error == pytest.approx(by_running, rel=1e-3)


def test_several_passes_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = classifier(), images()
    monkeypatch.setattr(statistics, "MAX_POSITIONS", 10)
    together = collect_statistics(model, data, model.layers, seed=5)
    monkeypatch.setattr(statistics, "MAX_PASS_BYTES", 1)
    steps: list[tuple[int, int]] = []
    in_passes = collect_statistics(
        model, data, model.layers, seed=5, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(done + 1, 4 * len(data)) for done in range(4 * len(data))]
    for layer in model.layers:
        alone = collect_statistics(model, data, [layer], seed=5)[layer.name]
        for other in (together[layer.name], in_passes[layer.name]):
            np.testing.assert_array_equal(alone.second_moment, other.second_moment)
    assert collect_statistics(model, data, []) == {}


def test_of_many_positions_a_share_drawn_by_seed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = classifier(), images(60)
    layer = model.layer("first")
    exact = collect_statistics(model, data, [layer])["first"]
    monkeypatch.setattr(statistics, "MAX_POSITIONS", 20)
    some = collect_statistics(model, data, [layer], seed=1)["first"]
    again = collect_statistics(model, data, [layer], seed=1)["first"]
    other = collect_statistics(model, data, [layer], seed=2)["first"]
    assert some.positions == 60 * 20 < exact.positions
    np.testing.assert_array_equal(some.second_moment, again.second_moment)
    assert not np.array_equal(some.second_moment, other.second_moment)
    scale = np.abs(exact.second_moment).max()
    # Of each sample other positions: twice the same sample tells more than once.
    twice = Dataset("twice", {"x": data.inputs["x"][[0, 0]]}, np.array([0, 1]))
    once = collect_statistics(model, twice, [layer], max_samples=1)["first"]
    assert not np.array_equal(collect_statistics(model, twice, [layer])["first"].second_moment, once.second_moment)
    assert np.abs(some.second_moment - exact.second_moment).max() < 0.25 * scale


def test_no_more_samples_are_looked_at_than_asked_for() -> None:
    model, data = embedder(), sentences()
    steps: list[tuple[int, int]] = []
    found = collect_statistics(
        model, data, model.layers, max_samples=4, progress=lambda done, total: steps.append((done, total))
    )
    assert found["left"].positions == 4 * 6
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_of_very_wide_layers_only_the_diagonal_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((12, 7))
    signs = rng.choice([-1.0, 1.0], (64, 12)) * np.arange(1, 13)  # inputs of different sizes, hardly correlated
    model, data = rows(matrix, signs)
    full = collect_statistics(model, data, model.layers)["only"]
    monkeypatch.setattr(statistics, "MAX_COLUMNS", 11)
    diagonal = collect_statistics(model, data, model.layers)["only"]
    np.testing.assert_allclose(diagonal.second_moment, [np.arange(1, 13) ** 2], rtol=1e-6)
    np.testing.assert_allclose(full.second_moment[0].diagonal(), diagonal.second_moment[0], rtol=1e-6)
    dense = model.weight("only")
    pruned = magnitude(dense, None, parse_choice("unstructured@0.5"))
    by_hand = (np.square(dense - pruned) * diagonal.second_moment).sum() / (
        np.square(dense) * diagonal.second_moment
    ).sum()
    assert output_error(dense, pruned, diagonal) == pytest.approx(float(by_hand), rel=1e-5)
    # Scores need no more; and there is nothing to fit by.
    choice = parse_choice("unstructured@0.5")
    for fitting in (PRUNERS["sparsegpt"], PRUNERS["alps"]):
        np.testing.assert_array_equal(fitting(dense, diagonal, choice, 1), wanda(dense, full, choice))
    np.testing.assert_array_equal(wanda(dense, diagonal, choice), wanda(dense, full, choice))


def test_an_output_that_is_always_zero() -> None:
    dead = LayerStatistics(np.zeros((1, 2, 2), np.float32), 1)
    weight = np.array([[1, 2]], np.float32)
    assert output_error(weight, np.zeros_like(weight), dead) == 0
    # Both inputs are always equal: of the weights 1 and -1 nothing comes, of one alone something does.
    equal = LayerStatistics(np.ones((1, 2, 2), np.float32), 1)
    weight = np.array([[1, -1]], np.float32)
    assert output_error(weight, np.array([[1, 0]], np.float32), equal) == 1
    assert output_error(weight, weight, equal) == 0


def test_the_error_of_groups_is_taken_together() -> None:
    moment = np.stack([np.eye(2, dtype=np.float32), 4 * np.eye(2, dtype=np.float32)])
    weight = np.array([[1, 1], [1, 1]], np.float32)  # one row per group: energies 2 and 8
    pruned = np.array([[1, 1], [0, 1]], np.float32)
    assert output_error(weight, pruned, LayerStatistics(moment, 1)) == pytest.approx(0.4)


@pytest.mark.parametrize("large", [1e30, 3e38])
def test_inputs_too_large_to_square_are_an_error_that_names_layer_and_sample(large: float) -> None:
    samples = np.ones((3, 4))
    samples[1, 2] = large
    model, data = rows(np.ones((4, 2)), samples)
    with pytest.raises(DataError, match=r"'only': its input is not finite on sample 1 of rows"):
        collect_statistics(model, data, model.layers)


def test_inputs_that_are_not_finite_are_an_error() -> None:
    nodes = [node("Log", ["x"], ["h"]), node("MatMul", ["h", "w"], ["y"], name="after_log")]
    proto = model_proto(nodes, [value("x", [1, 4])], weights=[stored_weight("w", 4, 3)])
    model = import_onnx(proto.SerializeToString())
    data = Dataset("rows", {"x": np.array([[1, 2, 3, 4], [1, 2, -3, 4]], np.float32)}, np.array([0, 1]))
    with pytest.raises(DataError, match=r"'after_log': its input is not finite on sample 1 of rows"):
        collect_statistics(model, data, model.layers)


def test_a_sample_that_cannot_be_run_is_an_error() -> None:
    model, data = embedder(), sentences()
    ids = np.array(data.inputs["ids"])
    ids[4, 2] = 50  # the table has 50 rows
    data = Dataset("sentences", {"ids": ids}, data.labels, "spearman")
    with pytest.raises(DataError, match="cannot run sample 4 of sentences"):
        collect_statistics(model, data, model.layers)


def test_a_pass_ends_where_inputs_and_moments_exceed_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = embedder(), sentences(2)  # two layers: inputs of 6 x 12 float32, moments of 12 x 12 float64
    for limit, passes in ((2 * (4 * 72 + 8 * 144), 1), (2 * (4 * 72 + 8 * 144) - 1, 2), (1, 2)):
        monkeypatch.setattr(statistics, "MAX_PASS_BYTES", limit)
        steps: set[tuple[int, int]] = set()
        collect_statistics(model, data, model.layers, progress=lambda *step, steps=steps: steps.add(step))
        assert steps == {(done + 1, 4 * passes) for done in range(4 * passes)}


def test_a_weight_counts_by_the_size_of_its_input() -> None:
    moment = np.stack([np.diag([1.0, 100, 1]), np.diag([1.0, 1, 100])]).astype(np.float32)
    weight = np.array([[3, 1, 2], [3, 1, 2]], np.float32)  # a row for each of two groups: worth 3 10 2 and 3 1 20
    for second_moment in (moment, np.diagonal(moment, axis1=1, axis2=2)):
        known = LayerStatistics(second_moment, 1)
        assert wanda(weight, known, parse_choice("unstructured@0.5"), 2).tolist() == [[3, 1, 0], [0, 0, 2]]
        assert known.diagonal.tolist() == [[1, 100, 1], [1, 1, 100]]
