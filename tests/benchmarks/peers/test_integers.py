"""Graphs whose layers compute with bytes, held to the float graph by onnx's own evaluation of both."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.peers.integers import Range, layer_inputs, to_integers

IMAGE, CHANNELS, CLASSES = (2, 3, 8, 8), 8, 5


def graph(nodes: list[NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def network(classifier: str = "Gemm", **attributes: object) -> onnx.ModelProto:
    """A padded convolution, a depthwise one without bias, and a product with weights; most weights are zeros."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((CHANNELS, 3, 3, 3)),
        "b1": rng.standard_normal(CHANNELS),
        "w2": rng.standard_normal((CHANNELS, 1, 3, 3)),
        "w3": rng.standard_normal((CLASSES, CHANNELS) if attributes.get("transB") else (CHANNELS, CLASSES)),
        "b3": rng.standard_normal(CLASSES),
    }
    for name in ("w1", "w2", "w3"):
        constants[name] *= rng.random(constants[name].shape) < 0.4
    constants["w1"][2], constants["b1"][2] = 0, 3  # a channel that has its bias alone
    constants["w1"][3], constants["b1"][3] = constants["w1"][3] * 1e-12, 3  # and one that might as well
    last = ["flat", "w3", "b3"] if classifier == "Gemm" else ["flat", "w3"]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"], "depthwise", pads=[1, 1, 1, 1], group=CHANNELS),
        helper.make_node("Add", ["d", "r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node(classifier, last, ["y"], "last", **attributes),
    ]
    return graph(nodes, {name: value.astype(np.float32) for name, value in constants.items()}, (2, CLASSES))


def image() -> np.ndarray:
    """Not around zero, so that the byte of zero is not the middle one."""
    return np.random.default_rng(1).uniform(-1, 3, IMAGE).astype(np.float32)


def values(proto: onnx.ModelProto, names: tuple[str, ...]) -> list[np.ndarray]:
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return [np.asarray(value) for value in ReferenceEvaluator(shown).run(None, {"x": image()})]


def quantised(proto: onnx.ModelProto) -> onnx.ModelProto:
    read = layer_inputs(proto)
    taken = dict(zip(read, values(proto, read), strict=True))
    made = to_integers(proto, {name: Range(float(value.min()), float(value.max())) for name, value in taken.items()})
    onnx.checker.check_model(made, full_check=True)
    return made


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def operations(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(("classifier", "attributes"), [("Gemm", {"transB": 1}), ("Gemm", {}), ("MatMul", {})])
def test_the_network_answers_nearly_the_same_with_bytes(classifier: str, attributes: dict[str, object]) -> None:
    dense = network(classifier, **attributes)
    made = quantised(dense)
    assert {"Conv", "Gemm", "MatMul"}.isdisjoint(operations(made))
    assert operations(made).count("ConvInteger") == 2 and operations(made).count("MatMulInteger") == 1
    for ours, exact in zip(values(made, ("a", "y")), values(dense, ("a", "y")), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=0.02 * float(np.abs(exact).max()))


def test_weights_are_bytes_by_channel_and_zeros_stay() -> None:
    before, after = constants(network()), constants(quantised(network()))
    weight, made = before["w2"], after["d/weight"]
    largest = np.abs(weight).max((1, 2, 3), keepdims=True)
    assert made.dtype == np.int8 and after["d/zero"] == 0
    assert np.all(made[weight == 0] == 0) and np.count_nonzero(made)
    assert set(np.abs(made).max((1, 2, 3))) == {127}
    np.testing.assert_allclose(made * largest / 127, weight, rtol=0, atol=float(largest.max()) / 254 * 1.001)


def test_a_bias_beyond_32_bits_makes_its_channel_coarser_and_stays() -> None:
    after = constants(quantised(network()))
    channels = [2, 3]
    restored = after["a/bias"].astype(np.float64) * after["a/scale"]
    np.testing.assert_allclose(restored.reshape(-1)[channels], 3, rtol=1e-6)
    assert after["a/bias"].dtype == np.int32 and np.all(after["a/weight"][channels] == 0)


def test_a_tensor_that_two_layers_read_is_made_bytes_once() -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    assert operations(quantised(graph(nodes, {"w": weight}, IMAGE))).count("QuantizeLinear") == 1


def test_an_input_of_zeros_alone_is_bytes_of_zeros() -> None:
    made = to_integers(network(), dict.fromkeys(layer_inputs(network()), Range(0.0, 0.0)))
    assert all(np.all(np.isfinite(value)) for value in constants(made).values())


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("MatMul", ["x", "x"], {}),  # of activations
        ("MatMul", ["x", "stacked"], {}),  # other weights for each matrix
        ("Conv", ["x", "filter", "moving"], {}),  # a bias that is computed
        ("Gemm", ["rows", "square"], {"alpha": 0.5}),
        ("Gemm", ["rows", "square", "each"], {}),  # other numbers for each row
    ],
)
def test_what_is_no_such_layer_stays_as_it_is(kind: str, inputs: list[str], attributes: dict[str, object]) -> None:
    stored = {
        "stacked": np.ones((3, 8, 8), np.float32),
        "filter": np.ones((3, 3, 1, 1), np.float32),
        "square": np.ones((8, 8), np.float32),
        "each": np.ones((48, 8), np.float32),
        "shape": np.array([48, 8]),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("ReduceMax", ["x"], ["moving"], axes=[0, 2, 3], keepdims=0),
        helper.make_node(kind, inputs, ["y"], **attributes),
    ]
    proto = graph(nodes, stored, IMAGE)
    assert layer_inputs(proto) == () and operations(to_integers(proto, {})) == operations(proto)
