"""Small ONNX graphs, and the check that importing one leaves its results alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hwsparse.model import Model

node = helper.make_node


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    return stored(name, np.random.default_rng([seed, len(name)]).standard_normal(shape).astype(np.float32))


def stored(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model_proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto] = (value("y", None),),
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    ir_version: int = 8,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=ir_version)


def run(proto: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Results without any optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def random_feeds(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else rng.integers(0, 200, spec.shape).astype(spec.dtype)
        for spec in model.inputs
    }


def assert_same_results(original: onnx.ModelProto, model: Model) -> None:
    feeds = random_feeds(model)
    before, after = run(original.SerializeToString(), feeds), run(model.proto, feeds)
    assert [tuple(x.shape) for x in after] == [spec.shape for spec in model.outputs]
    for x, y in zip(before, after, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)
