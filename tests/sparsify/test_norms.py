"""Normalisations fitted anew, against the same least squares in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hwsparse.data import Dataset
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Layer
from hwsparse.sparsify import correct, pruned_proto
from hwsparse.sparsify.norms import Norm, fitted_norm, in_order
from hwsparse.sparsify.statistics import DAMPING
from hwsparse.sparsify.walk import SideBySide
from tests.model.graphs import model_proto, node, run, stored, value
from tests.sparsify.test_correction import lost, pruned

WIDTH, TOKENS = 16, 4


def residual(*, shared: bool = False, masked: bool = False) -> Model:
    """y = norm(n + n A) B with n = norm(x): what passes by A, no weight of it can make up for."""
    rng = np.random.default_rng(0)
    scale = ["g", "g"] if shared else ["g", "g2"]
    nodes = [
        node("LayerNormalization", ["x", scale[0], "s0"], ["n"], "before", epsilon=1e-6),
        node("MatMul", ["n", "a"], ["h"], "first"),
        node("Add", ["n", "h"], ["r"]),
        node("LayerNormalization", ["r", scale[1], "s"], ["z"], "norm", epsilon=1e-6),
        node("MatMul", ["z", "b"], ["y"], "second"),
    ]
    arrays = {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH), "g": WIDTH, "g2": WIDTH, "s": WIDTH, "s0": WIDTH}
    weights = [stored(name, rng.standard_normal(shape).astype(np.float32)) for name, shape in arrays.items()]
    inputs = [value("x", (1, TOKENS, WIDTH))]
    if masked:
        nodes = [node("Cast", ["attention_mask"], ["m"], to=1), *nodes]
        inputs.append(value("attention_mask", (1, TOKENS), 7))
    proto = model_proto(nodes, inputs, [value("y", (1, TOKENS, WIDTH))], weights)
    return import_onnx(proto.SerializeToString(), name="residual")


def tokens(count: int, **more: np.ndarray) -> Dataset:
    x = np.random.default_rng(1).standard_normal((count, TOKENS, WIDTH)) + np.linspace(-2, 2, WIDTH)
    return Dataset("tokens", {"x": x.astype(np.float32), **more}, np.arange(count) % 2)


def test_they_come_where_they_are_in_the_graph() -> None:
    steps = [step.scale if isinstance(step, Norm) else step.name for step in in_order(residual())]
    assert steps == ["g", "first", "g2", "second"]
    assert [type(step) for step in in_order(residual(shared=True))] == [Layer, Layer]


def read_by_the_norm(model: Model, weights: dict[str, np.ndarray], dataset: Dataset) -> np.ndarray:
    """What is normalised before `second`, (rows, WIDTH), in float64."""
    proto = onnx.load_from_string(pruned_proto(model, weights))
    proto.graph.output.append(onnx.ValueInfoProto(name="r"))
    reads = [run(proto.SerializeToString(), {"x": x[None]})[1] for x in dataset.inputs["x"]]
    return np.concatenate(reads).reshape(-1, WIDTH).astype(np.float64)


@pytest.mark.parametrize("masked", [False, True])
def test_scale_and_shift_are_those_of_least_squares(masked: bool) -> None:
    model = residual()
    mask = np.ones((30, TOKENS), np.int64)
    if masked:
        model, mask[:, 2:] = residual(masked=True), 0
    dataset = tokens(30, attention_mask=mask) if masked else tokens(30)
    weights = pruned(model, "unstructured@0.7")
    (norm,) = (step for step in in_order(model) if isinstance(step, Norm) and step.scale == "g2")
    with SideBySide(model, model, dataset, 30) as both:
        found = fitted_norm(model, norm, both, weights)
    plain = residual()  # of the same weights
    x, own = (rows[mask.ravel() == 1] for rows in (read_by_the_norm(plain, each, tokens(30)) for each in ({}, weights)))
    scale, shift = model.constant("g2").astype(np.float64), model.constant("s").astype(np.float64)

    def normalised(rows: np.ndarray) -> np.ndarray:
        return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)

    z, y = normalised(own), scale * normalised(x) + shift
    ridge = np.sqrt(DAMPING * np.square(z).mean() * len(z))
    for channel in range(WIDTH):
        # The ridge is one more row, which the shift has no part in.
        columns = np.vstack([np.stack([z[:, channel], np.ones(len(z))], axis=1), [ridge, 0]])
        wanted = np.append(y[:, channel], ridge * scale[channel])
        expected = np.linalg.lstsq(columns, wanted, rcond=None)[0]
        np.testing.assert_allclose(
            [found["g2"][channel], found["s"][channel]], expected, rtol=1e-4, atol=1e-5
        )  # fmt: skip


def test_a_corrected_network_is_nearer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = residual(), tokens(60)
    weights = pruned(model, "unstructured@0.7", "unstructured@0.5")
    found = correct(model, weights, dataset)
    assert {"g2", "s"} <= found.keys() and not {"g", "s0"} & found.keys()  # what comes before is as it was
    monkeypatch.setattr("hwsparse.sparsify.correction.in_order", lambda model: list(model.layers))
    assert lost(model, found, dataset) < lost(model, correct(model, weights, dataset), dataset)


def test_a_network_that_runs_away_keeps_its_norms() -> None:
    model, dataset = residual(), tokens(4)
    (norm,) = (step for step in in_order(model) if isinstance(step, Norm) and step.scale == "g2")
    weights = {"first": np.full((WIDTH, WIDTH), 3e38, np.float32)}
    with SideBySide(model, model, dataset, 4) as both:
        assert fitted_norm(model, norm, both, weights) == {}


def preactivated(mean: str = "m") -> Model:
    """y = B relu(norm(x + A x)) over (1, 6, 5, 4): a batch norm that no convolution can take in."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "a"], ["h"], "first", pads=[1, 1, 1, 1]),
        node("Add", ["x", "h"], ["r"]),
        node("BatchNormalization", ["r", "g", "s", mean, "v"], ["n"], "norm", epsilon=1e-3),
        node("Relu", ["n"], ["z"]),
        node("Conv", ["z", "b"], ["y"], "second"),
    ]
    shapes = {"a": (6, 6, 3, 3), "b": (4, 6, 1, 1), "g": 6, "s": 6, "m": 6}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"v": rng.uniform(1, 9, 6)}
    weights = [stored(name, array.astype(np.float32)) for name, array in arrays.items()]
    proto = model_proto(nodes, [value("x", (1, 6, 5, 4))], [value("y", (1, 4, 5, 4))], weights)
    return import_onnx(proto.SerializeToString(), name="preactivated")


def test_a_batch_norm_of_constants_that_are_shared_stays() -> None:
    assert [type(step) for step in in_order(preactivated())] == [Layer, Norm, Layer]
    assert [type(step) for step in in_order(preactivated(mean="s"))] == [Layer, Layer]


def test_a_batch_norm_behind_a_sum_is_fitted_by_channels() -> None:
    model = preactivated()
    x = np.random.default_rng(1).standard_normal((20, 6, 5, 4)).astype(np.float32)
    dataset = Dataset("maps", {"x": x}, np.arange(20) % 2)
    weights = pruned(model, "unstructured@0.7")
    (norm,) = (step for step in in_order(model) if isinstance(step, Norm))
    with SideBySide(model, model, dataset, 20) as both:
        found = fitted_norm(model, norm, both, weights)

    def channels(weights: dict[str, np.ndarray]) -> np.ndarray:
        proto = onnx.load_from_string(pruned_proto(model, weights))
        proto.graph.output.append(onnx.ValueInfoProto(name="r"))
        maps = np.concatenate([run(proto.SerializeToString(), {"x": each[None]})[1] for each in x])
        rows = maps.transpose(0, 2, 3, 1).reshape(-1, 6).astype(np.float64)
        return (rows - model.constant("m")) / np.sqrt(model.constant("v").astype(np.float64) + 1e-3)

    z, y = channels(weights), model.constant("g").astype(np.float64) * channels({}) + model.constant("s")
    ridge = np.sqrt(DAMPING * np.square(z).mean() * len(z))
    for channel in range(6):
        columns = np.vstack([np.stack([z[:, channel], np.ones(len(z))], axis=1), [ridge, 0]])
        expected = np.linalg.lstsq(columns, np.append(y[:, channel], ridge * model.constant("g")[channel]), rcond=None)
        np.testing.assert_allclose(
            [found["g"][channel], found["s"][channel]], expected[0], rtol=1e-4, atol=1e-5
        )  # fmt: skip
