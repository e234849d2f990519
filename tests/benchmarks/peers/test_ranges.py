"""What tensors lie between, against numpy."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.integers import Range
from benchmarks.peers.ranges import seen_ranges


def test_ranges_are_those_of_all_samples_together() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["y"])]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    before = proto.SerializeToString()
    samples = rng.standard_normal((3, 2, 4)).astype(np.float32)
    ranges = seen_ranges(proto, ("x", "hidden", "y"), {"x": samples}, 1)
    hidden = samples.astype(np.float64) @ weight
    expected = {"x": samples, "hidden": hidden, "y": np.maximum(hidden, 0)}
    for name, values in expected.items():
        seen = ranges[name]
        assert isinstance(seen, Range)
        np.testing.assert_allclose((seen.low, seen.high), (values.min(), values.max()), rtol=1e-5)
    assert proto.SerializeToString() == before and isinstance(proto, onnx.ModelProto)
