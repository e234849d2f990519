"""The canonical form: weights by layer, in both layouts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import numpy_helper

from hwsparse.errors import ModelError
from hwsparse.model import Model, TensorSpec, import_onnx
from hwsparse.sparsify import pruned_proto
from tests.model.graphs import model_proto, node, value, weight


@pytest.fixture(scope="module")
def model() -> Model:
    nodes = [
        node("Gemm", ["x", "a", "c"], ["g"], "first", transB=1),
        node("Relu", ["g"], ["r"]),
        node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    weights = [weight("a", 5, 4), weight("b", 5, 3), weight("c", 5)]
    return import_onnx(model_proto(nodes, [value("x", [2, 4])], weights=weights).SerializeToString(), name="m")


def test_weight_is_canonical_whatever_the_file_stores(model: Model) -> None:
    assert not model.layer("first").transposed
    assert model.layer("second").transposed
    np.testing.assert_array_equal(model.weight("first"), numpy_helper.to_array(weight("a", 5, 4)))
    np.testing.assert_array_equal(model.weight("second"), numpy_helper.to_array(weight("b", 5, 3)).T)
    for layer in model.layers:
        assert model.weight(layer.name).shape == layer.weight_shape
        assert model.weight(layer.name).dtype == np.float32


def test_initializer_undoes_weight(model: Model) -> None:
    for layer, name in zip(model.layers, ("a", "b"), strict=True):
        back = model.initializer(layer, model.weight(layer.name))
        np.testing.assert_array_equal(back, numpy_helper.to_array(weight(name, 5, 4 if name == "a" else 3)))
        assert back.flags.c_contiguous


def test_weight_cannot_be_changed(model: Model) -> None:
    for layer in model.layers:
        with pytest.raises(ValueError, match="read-only"):
            model.weight(layer.name)[0, 0] = 1


def test_unknown_layer(model: Model) -> None:
    with pytest.raises(ModelError, match="'m' has no prunable layer 'third'"):
        model.layer("third")
    with pytest.raises(ModelError, match="no prunable layer"):
        model.weight("third")


def test_weight_of_another_shape(model: Model) -> None:
    with pytest.raises(ModelError, match=r"layer 'first': weight of shape \(4, 5\), not \(5, 4\)"):
        model.initializer(model.layer("first"), np.zeros((4, 5), np.float32))


def test_what_takes_the_place_of_initializers(model: Model) -> None:
    second = np.arange(15, dtype=np.float32).reshape(3, 5)
    found = model.replaced({"second": second, "a": np.ones((5, 4))})
    np.testing.assert_array_equal(found["b"], second.T)
    np.testing.assert_array_equal(found["a"], np.ones((5, 4), np.float32))
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    assert model.replaced({}) == {}
    with pytest.raises(ModelError, match=r"constant 'a': values of shape \(2,\), not \(5, 4\)"):
        model.replaced({"a": np.zeros(2)})
    with pytest.raises(ModelError, match="'m' has neither a prunable layer nor a constant 'third'"):
        model.replaced({"third": np.zeros(2)})


def test_a_constant_cannot_be_changed(model: Model) -> None:
    with pytest.raises(ValueError, match="read-only"):
        model.constant("a")[0, 0] = 1


def test_digest_belongs_to_the_graph(model: Model) -> None:
    with pytest.raises(ModelError, match="digest"):
        dataclasses.replace(model, proto=model.proto + b"\0")


def test_layer_names_are_unique(model: Model) -> None:
    with pytest.raises(ModelError, match="one name"):
        dataclasses.replace(model, layers=model.layers + model.layers[:1])


def test_sizes_are_positive() -> None:
    with pytest.raises(ModelError, match="'x': every size must be at least 1"):
        TensorSpec("x", (1, 0), "float32")


def test_representation_is_short(model: Model) -> None:
    assert repr(model) == f"Model('m', digest={model.digest[:12]!r}, layers=2)"


def test_what_makes_a_model_another_one(model: Model) -> None:
    weights = {"second": model.weight("second") * 2, "c": model.constant("c") + 1}
    other = import_onnx(pruned_proto(model, weights), name="other")
    changes = model.changes_to(other)
    assert changes.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(changes[name], values)
    assert pruned_proto(model, changes) == other.proto
    assert model.changes_to(model) == {}


def test_another_graph_is_not_the_model_with_other_constants(model: Model) -> None:
    nodes = [node("Gemm", ["x", "a", "c"], ["y"], "first", transB=1)]
    weights = [weight("a", 5, 4), weight("c", 5)]
    other = import_onnx(model_proto(nodes, [value("x", [2, 4])], weights=weights).SerializeToString(), name="other")
    with pytest.raises(ModelError, match="'other' is not 'm' with other weights"):
        model.changes_to(other)
