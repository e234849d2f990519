"""Means of what two networks read, against their inputs; and what is kept while they walk."""

from __future__ import annotations

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.sparsify import walk
from hwsparse.sparsify.walk import Moments, SideBySide
from tests.model.graphs import model_proto, node, stored, value

WIDTH, ROWS = 5, 12


def biased() -> Model:
    """y = (x A + u) B + v."""
    rng = np.random.default_rng(0)
    nodes = [node("Gemm", ["x", "a", "u"], ["h"], "first"), node("Gemm", ["h", "b", "v"], ["y"], "second")]
    weights = [stored(name, rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)) for name in "ab"]
    weights += [stored(name, rng.standard_normal(WIDTH).astype(np.float32)) for name in "uv"]
    proto = model_proto(nodes, [value("x", (1, WIDTH))], [value("y", (1, WIDTH))], weights)
    return import_onnx(proto.SerializeToString(), name="biased")


def rows() -> Dataset:
    x = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    return Dataset("rows", {"x": x}, np.arange(ROWS) % 2)


def moments(model: Model, weights: dict[str, np.ndarray], samples: int) -> Moments:
    layer = model.layer("second")
    with SideBySide(model, model, rows(), samples) as both:
        return both.moments(layer, layer, weights)


def test_means_are_of_what_each_network_reads() -> None:
    model = biased()
    weights = {"first": np.eye(WIDTH, dtype=np.float32), "u": np.full(WIDTH, 2.0, np.float32)}
    found = moments(model, weights, ROWS)
    x = rows().inputs["x"].astype(np.float64)
    own = x + 2
    read = x @ model.weight("first").T + model.constant("u")
    np.testing.assert_allclose(found.own[0], own.T @ own / ROWS, rtol=1e-5)
    np.testing.assert_allclose(found.cross[0], read.T @ own / ROWS, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.own_mean[0, :, 0], own.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.mean[0, :, 0], read.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_no_more_samples_than_memory_is_meant_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased()
    few = moments(model, {}, 3)
    assert not np.allclose(few.own, moments(model, {}, ROWS).own)
    # A layer reads and makes WIDTH floats each, in two networks.
    monkeypatch.setattr(walk, "MAX_BYTES", 3 * 2 * 2 * 4 * WIDTH)
    np.testing.assert_array_equal(few.own, moments(model, {}, ROWS).own)
    monkeypatch.setattr(walk, "MAX_BYTES", 0)
    np.testing.assert_array_equal(moments(model, {}, ROWS).own, moments(model, {}, 1).own)


def test_what_is_not_of_the_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="constant 'u'"):
        moments(biased(), {"u": np.zeros(2, np.float32)}, 2)
