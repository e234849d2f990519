"""Graphs for older runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.opset13 import to_opset13


def graph(axis: int = -1) -> onnx.ModelProto:
    """Layer normalisation, reductions with axes as an input, a reshape: all as opset 18 has them."""
    rng = np.random.default_rng(0)
    constants = {
        "scale": rng.standard_normal(6).astype(np.float32),
        "bias": rng.standard_normal(6).astype(np.float32),
        "axes": np.array([1], np.int64),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["mean", "scale", "bias"], ["normal"], "norm", axis=axis, epsilon=1e-3),
        helper.make_node("ReduceMean", ["normal", "axes"], ["averaged"], keepdims=1, noop_with_empty_axes=0),
        helper.make_node("ReduceSum", ["averaged", "axes"], ["summed"], keepdims=0, noop_with_empty_axes=0),
        helper.make_node("Reshape", ["summed", "flat"], ["y"], allowzero=0),
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, (2, 5, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 6))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, 5, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"mean": x})[0]
    return result


def test_the_rewritten_graph_computes_the_same_in_opset_13() -> None:
    old = to_opset13(graph())
    onnx.checker.check_model(old, full_check=True)
    assert [(item.domain, item.version) for item in old.opset_import] == [("", 13)]
    assert "LayerNormalization" not in {node.op_type for node in old.graph.node}
    np.testing.assert_allclose(answer(old), answer(graph()), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(ValueError, match="norm: only normalisation of the last axis"):
        to_opset13(graph(axis=1))
