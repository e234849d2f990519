"""Correction against the same least squares, spelt out in float64 on whole networks."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.quantise import rounded
from hwsparse.sparsify import apply_plan, correct, pruned_proto
from hwsparse.sparsify.ranges import as_bytes, ranges_for, ranges_on, tensor_ranges
from hwsparse.sparsify.statistics import DAMPING
from tests.model.graphs import model_proto, node, run, stored, value
from tests.sparsify.networks import classifier, embedder, images, sentences

WIDTH = 8


def chain(seed: int = 0) -> Model:
    """y = (x A) B + v for rows x of 8."""
    rng = np.random.default_rng(seed)
    nodes = [node("MatMul", ["x", "a"], ["h"], "first"), node("Gemm", ["h", "b", "v"], ["y"], "second")]
    weights = [stored(name, rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)) for name in "ab"]
    weights.append(stored("v", rng.standard_normal(WIDTH).astype(np.float32)))
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, WIDTH))], weights)
    return import_onnx(proto.SerializeToString(), name="chain")


def rows(count: int) -> Dataset:
    x = (1 + np.random.default_rng(1).standard_normal((count, WIDTH))).astype(np.float32)
    return Dataset("rows", {"x": x}, np.arange(count) % 2)


def outputs(model: Model, weights: dict[str, np.ndarray], dataset: Dataset) -> np.ndarray:
    proto = pruned_proto(model, weights)
    feeds = ({name: values[row : row + 1] for name, values in dataset.inputs.items()} for row in range(dataset.rows))
    return np.stack([run(proto, feed)[0].reshape(-1) for feed in feeds]).astype(np.float64)


def lost(model: Model, weights: dict[str, np.ndarray], dataset: Dataset) -> float:
    dense = outputs(model, {}, dataset)
    return float(np.square(outputs(model, weights, dataset) - dense).sum() / np.square(dense).sum())


def pruned(model: Model, *choices: str) -> dict[str, np.ndarray]:
    names = [layer.name for layer in model.layers]
    plan = Plan.of(model.digest, {name: parse_choice(text) for name, text in zip(names, choices, strict=False)})
    return apply_plan(model, plan)


def test_a_layer_answers_to_what_it_reads_now_as_the_dense_one_did() -> None:
    model, dataset = chain(), rows(200)
    weights = pruned(model, "unstructured@0.5", "unstructured@0.25")
    found = correct(model, weights, dataset, samples=200)
    x = dataset.inputs["x"].astype(np.float64)
    reads, bias = x, {"first": None, "second": "v"}
    for name in ("first", "second"):
        dense, start = model.weight(name).astype(np.float64), weights[name].astype(np.float64)
        # A bias is a column of ones without a ridge, whose old value is as good as any.
        known = np.ones((len(x), int(bias[name] is not None)))
        columns = np.hstack([reads, known])
        moment = columns.T @ columns / len(x)
        ridge = np.diag([DAMPING * np.diag(moment)[:WIDTH].mean()] * WIDTH + [0.0] * known.shape[1])
        shift = model.constant("v").astype(np.float64) if known.size else np.zeros(WIDTH)
        wanted = (dense @ x.T + shift[:, None]) @ columns / len(x) + np.pad(
            start, ((0, 0), (0, known.shape[1]))
        ) @ ridge
        expected = np.zeros((WIDTH, columns.shape[1]))
        for row, kept in enumerate(np.hstack([start, np.ones((WIDTH, known.shape[1]))]) != 0):
            expected[row, kept] = np.linalg.solve((moment + ridge)[np.ix_(kept, kept)], wanted[row, kept])
        np.testing.assert_allclose(found[name], expected[:, :WIDTH], rtol=0.03, atol=0.02)
        if known.size:
            np.testing.assert_allclose(found["v"], expected[:, WIDTH], rtol=0.03, atol=0.02)
        reads, x = reads @ found[name].T.astype(np.float64), x @ dense.T


def test_masks_stay_and_the_network_is_nearer_to_the_dense_one() -> None:
    model, dataset = classifier(), images(64)
    weights = pruned(model, "unstructured@0.4", "2:4")
    found = correct(model, weights, dataset, threads=2)
    for name, weight in weights.items():
        assert not found[name][weight == 0].any()
    assert set(found) > set(weights)  # the dense layers behind make up for the others
    assert lost(model, found, dataset) < 0.7 * lost(model, weights, dataset)


def test_a_network_of_tokens() -> None:
    model, dataset = embedder(), sentences(40)
    weights = pruned(model, "unstructured@0.5", "unstructured@0.5")
    assert lost(model, correct(model, weights, dataset), dataset) < lost(model, weights, dataset)


def test_layers_before_the_first_pruned_one_stay_as_they_are() -> None:
    model, dataset = chain(), rows(50)
    found = correct(model, {"second": pruned(model, "2:4", "2:4")["second"]}, dataset)
    assert set(found) == {"second", "v"}
    assert correct(model, {}, dataset) == {}


def test_threads_change_nothing_and_every_layer_is_a_step() -> None:
    model, dataset = classifier(), images(12)
    weights = pruned(model, "unstructured@0.5")
    steps: list[tuple[int, int]] = []
    found = [
        correct(model, weights, dataset, threads=count, progress=lambda *step: steps.append(step)) for count in (1, 2)
    ]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert steps == [(done + 1, 4) for done in range(4)] * 2


def test_inputs_that_are_all_zero_leave_weights_as_they_are() -> None:
    model = chain()
    nothing = Dataset("nothing", {"x": np.zeros((4, WIDTH), np.float32)}, np.arange(4) % 2)
    weights = pruned(model, "unstructured@0.5")
    found = correct(model, weights, nothing)
    np.testing.assert_allclose(found["first"], weights["first"], rtol=1e-5)


def test_padding_does_not_count() -> None:
    tokens, width = 4, 3
    rng = np.random.default_rng(0)
    nodes = [
        node("Cast", ["attention_mask"], ["m"], to=1),
        node("Unsqueeze", ["m", "last"], ["u"]),
        node("MatMul", ["x", "w"], ["p"], "only"),
        node("Mul", ["p", "u"], ["y"]),
    ]
    weights = [stored("w", rng.standard_normal((width, width)).astype(np.float32)), stored("last", np.array([2]))]
    inputs = [value("x", (1, tokens, width)), value("attention_mask", (1, tokens), 7)]
    proto = model_proto(nodes, inputs, [value("y", (1, tokens, width))], weights)
    model = import_onnx(proto.SerializeToString(), name="masked")
    mask = np.tile([1, 1, 0, 0], (20, 1)).astype(np.int64)
    x = rng.standard_normal((20, tokens, width)).astype(np.float32)
    other = np.where(mask[..., None] == 1, x, 1000).astype(np.float32)
    pruned_weights = pruned(model, "unstructured@0.5")
    labels = np.arange(20) % 2
    found = [
        correct(model, pruned_weights, Dataset("d", {"x": each, "attention_mask": mask}, labels))["only"]
        for each in (x, other)
    ]
    np.testing.assert_array_equal(*found)


def test_what_does_not_fit_is_an_error() -> None:
    model = chain()
    with pytest.raises(ModelError, match=r"weight of shape \(2, 2\)"):
        correct(model, {"first": np.zeros((2, 2), np.float32)}, rows(3))
    tokens, weights = sentences(2), pruned(embedder(), "unstructured@0.5", "unstructured@0.5")
    far = Dataset("far", {"ids": np.full_like(tokens.inputs["ids"], 99)}, tokens.labels, "spearman")
    with pytest.raises(DataError, match="onnxruntime cannot run a sample of far"):
        correct(embedder(), weights, far)


def test_layers_of_bytes_make_up_for_what_rounding_loses() -> None:
    """What they read and their weights are rounded; less is lost than where floats are fitted, and rounded then."""
    model, dataset = classifier(), images(64)
    layers = [layer for layer in model.layers if layer.groups == 1]
    plan = Plan.uniform(model.digest, layers, parse_choice("unstructured@0.1/int8"))
    ranges = tensor_ranges(model, (dataset.sample(row, 0) for row in range(64)))
    floats = apply_plan(model, plan)
    start = floats | ranges_for(model, plan, ranges)
    found = correct(model, start, dataset, plan=plan, samples=64)
    then = as_bytes(model, plan, correct(model, floats, dataset, samples=64), ranges)
    assert found.keys() == then.keys()
    for layer in layers:
        np.testing.assert_allclose(rounded(found[layer.name]), found[layer.name], rtol=1e-5, atol=1e-7)
        assert not found[layer.name][start[layer.name] == 0].any()
    for name in start.keys() - floats.keys():
        np.testing.assert_array_equal(found[name], start[name])
    plain = as_bytes(model, plan, floats, ranges)
    assert lost(model, found, dataset) < 0.9 * lost(model, then, dataset) < 0.9 * lost(model, plain, dataset)


def test_dense_layers_of_bytes_need_no_weights() -> None:
    model, dataset = classifier(), images(64)
    plan = Plan.uniform(model.digest, model.layers[-1:], Choice(dtype="int8"))
    start = ranges_for(model, plan, ranges_on(model, dataset))
    found = correct(model, start, dataset, plan=plan, samples=64)
    assert found.keys() == {"last", *start}
    np.testing.assert_allclose(rounded(found["last"]), found["last"], rtol=1e-5, atol=1e-7)
    nearest = as_bytes(model, plan, {}, ranges_on(model, dataset))
    assert lost(model, found, dataset) < lost(model, nearest, dataset)
