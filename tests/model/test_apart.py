from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from hwsparse.data.runs import session_of
from hwsparse.model import Model
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import apply_plan, pruned_proto
from hwsparse.sparsify.apply import pruned_apart, reads_of
from tests.data.test_answers import sentence_model
from tests.model.graphs import random_feeds
from tests.sparsify.networks import classifier


@pytest.mark.parametrize("model", [classifier(), sentence_model()], ids=lambda model: model.name)
def test_only_matrices_lie_elsewhere(model: Model) -> None:
    stored = {item.name: item for item in onnx.load_from_string(model.proto).graph.initializer}
    left = {item.name: item for item in onnx.load_from_string(model.apart.graph).graph.initializer}
    assert list(left) == list(stored)
    assert model.apart.arrays.keys() == {
        name for name, item in left.items() if item.data_location == TensorProto.EXTERNAL
    }
    assert model.apart.arrays
    for name, item in stored.items():
        kept = model.apart.arrays.get(name)
        np.testing.assert_array_equal(
            numpy_helper.to_array(left[name]) if kept is None else kept, numpy_helper.to_array(item)
        )
    assert len(model.apart.graph) < len(model.proto) - sum(array.nbytes for array in model.apart.arrays.values()) / 2


@pytest.mark.parametrize("choice", ["unstructured@0.5", "block4x2@0.5/bfloat16"])
def test_a_pruned_network_answers_the_same_taken_apart(choice: str) -> None:
    model = classifier()
    plan = Plan.of(model.digest, {"first": parse_choice(choice)})
    x = random_feeds(model)
    weights = (
        apply_plan(model, plan) | reads_of(plan) | {"last": 2 * model.weight("last")}
    )  # too small to lie elsewhere
    parts = pruned_apart(model, weights)
    (found,) = session_of(parts.graph, parts.arrays).run(None, x)
    (expected,) = session_of(pruned_proto(model, weights)).run(None, x)
    np.testing.assert_array_equal(found, expected)
    (dense,) = session_of(model.proto).run(None, x)
    assert np.abs(found - dense).max() > np.abs(dense).max() / 2
