"""Which layers are found, and what is said about them, against what onnxruntime computes."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.model import Model, import_onnx
from hwsparse.plan import Layer
from tests.model.graphs import assert_same_results, model_proto, node, random_feeds, run, stored, value, weight


def imported(proto: onnx.ModelProto, **arguments: object) -> Model:
    model = import_onnx(proto.SerializeToString(), **arguments)  # type: ignore[arg-type]
    assert_same_results(proto, model)
    return model


def reference_conv(layer: Layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What a layer's own description says it computes, by torch."""
    assert layer.window is not None
    padding = [side for pads in reversed(layer.window.pads) for side in pads]
    padded = torch.nn.functional.pad(torch.from_numpy(x), padding)
    convolve = torch.nn.functional.conv1d if w.ndim == 3 else torch.nn.functional.conv2d
    window = layer.window
    return convolve(
        padded, torch.from_numpy(w.copy()), None, window.strides, 0, window.dilations, window.groups
    ).numpy()


@settings(max_examples=60, deadline=None)
@given(
    axes=st.sampled_from([1, 2]),
    auto_pad=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", None]),
    data=st.data(),
)
def test_a_convolution_is_described_as_it_computes(axes: int, auto_pad: str | None, data: st.DataObject) -> None:
    def sizes(low: int, high: int, count: int = axes) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    groups, per_group = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.integers(1, 3))
    same = auto_pad is not None and auto_pad.startswith("SAME")  # which onnxruntime runs undilated only
    kernel, strides, dilations = sizes(1, 4), sizes(1, 3), sizes(1, 1 if same else 2)
    attributes: dict[str, object] = {"strides": strides, "dilations": dilations, "group": groups}
    if auto_pad is not None:
        attributes["auto_pad"] = auto_pad
    if auto_pad in (None, "NOTSET"):
        attributes["pads"] = sizes(0, 2, 2 * axes)
    extent = [data.draw(st.integers((k - 1) * d + 1, 12)) for k, d in zip(kernel, dilations, strict=True)]
    proto = model_proto(
        [node("Conv", ["x", "w"], ["y"], "conv", **attributes)],
        [value("x", [2, groups * per_group, *extent])],
        weights=[weight("w", groups * 2, per_group, *kernel)],
    )
    model = imported(proto)
    (layer,) = model.layers
    feeds = random_feeds(model)
    (expected,) = run(proto.SerializeToString(), feeds)
    np.testing.assert_allclose(reference_conv(layer, feeds["x"], model.weight("conv")), expected, rtol=1e-4, atol=1e-4)
    assert (layer.input_shape, layer.output_shape) == (feeds["x"].shape, expected.shape)
    assert layer.macs == expected.size * per_group * math.prod(kernel)
    attributes_left = {item.name for item in onnx.load_from_string(model.proto).graph.node[0].attribute}
    assert "auto_pad" not in attributes_left


def test_batch_norm_and_bias_fold_into_the_convolution() -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], "norm"),
        node("Relu", ["n"], ["y"]),
    ]
    weights = [weight("w", 8, 3, 3, 3), *(weight(name, 8) for name in "bsom"), stored("v", np.full(8, 0.5, np.float32))]
    model = imported(model_proto(nodes, [value("x", [1, 3, 9, 9])], weights=weights))
    assert [item.op_type for item in onnx.load_from_string(model.proto).graph.node] == ["Conv", "Relu"]
    assert [layer.name for layer in model.layers] == ["conv"]


def test_weights_listed_as_inputs_are_constants() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("BatchNormalization", ["c", "s", "o", "m", "v"], ["y"], "norm"),
    ]
    weights = [weight("w", 4, 3, 3, 3), *(weight(name, 4) for name in "som"), stored("v", np.ones(4, np.float32))]
    listed = [value(item.name, list(item.dims)) for item in weights]
    proto = model_proto(nodes, [value("x", [1, 3, 8, 8]), *listed], weights=weights, opset=11, ir_version=3)
    model = imported(proto)
    assert [spec.name for spec in model.inputs] == ["x"]
    assert len(onnx.load_from_string(model.proto).graph.node) == 1


def test_depthwise() -> None:
    proto = model_proto(
        [node("Conv", ["x", "w"], ["y"], "dw", group=6, pads=[1, 1, 1, 1], strides=[2, 2])],
        [value("x", [1, 6, 11, 11])],
        weights=[weight("w", 6, 1, 3, 3)],
    )
    (layer,) = imported(proto).layers
    assert (layer.groups, layer.inputs, layer.outputs) == (6, 9, 6)
    assert layer.macs == 6 * 36 * 9


def test_matmul_over_many_positions() -> None:
    proto = model_proto([node("MatMul", ["x", "w"], ["y"], "mm")], [value("x", [1, 7, 5])], weights=[weight("w", 5, 3)])
    (layer,) = imported(proto).layers
    assert (layer.op, layer.weight_shape, layer.transposed) == ("MatMul", (3, 5), True)
    assert (layer.input_shape, layer.output_shape, layer.macs) == ((1, 7, 5), (1, 7, 3), 7 * 5 * 3)


def test_a_weight_that_had_to_be_transposed_first_is_found() -> None:
    nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"], "mm")]
    model = imported(model_proto(nodes, [value("x", [1, 7, 5])], weights=[weight("w", 3, 5)]))
    np.testing.assert_array_equal(model.weight("mm"), onnx.numpy_helper.to_array(weight("w", 3, 5)))


def test_a_fused_product_keeps_its_name() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "b"], ["y"], "add")]
    (layer,) = imported(model_proto(nodes, [value("x", [2, 5])], weights=[weight("w", 5, 3), weight("b", 3)])).layers
    assert (layer.name, layer.op) == ("mm", "Gemm")


@pytest.mark.parametrize(
    ("attributes", "weights"),
    [
        ({"transA": 1}, [weight("w", 2, 3)]),
        ({"alpha": 0.5}, [weight("w", 4, 3)]),
        ({"beta": 0.5}, [weight("w", 4, 3)]),
        ({}, [stored("w", np.ones((4, 3)))]),
    ],
    ids=["transposed input", "alpha", "beta", "float64"],
)
def test_products_that_cannot_be_pruned(attributes: dict[str, float], weights: list[onnx.TensorProto]) -> None:
    kind = weights[0].data_type
    rows = 4 if "transA" in attributes else 2
    bias = stored(
        "b", onnx.numpy_helper.to_array(weight("b", rows, 3)).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    )
    proto = model_proto(
        [node("Gemm", ["x", "w", "b"], ["y"], **attributes)], [value("x", [2, 4], kind)], [value("y", None, kind)],
        [*weights, bias],
    )  # fmt: skip
    assert imported(proto).layers == ()


def test_a_product_of_two_activations_is_no_layer() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    assert imported(model_proto(nodes, [value("x", [3, 3])])).layers == ()


def test_a_constant_on_the_left_is_no_layer() -> None:
    proto = model_proto([node("MatMul", ["w", "x"], ["y"])], [value("x", [3, 3])], weights=[weight("w", 3, 3)])
    assert imported(proto).layers == ()


def test_a_shared_weight_is_left_alone() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    assert imported(model_proto(nodes, [value("x", [2, 3, 4])], weights=[weight("w", 4, 4)])).layers == ()


def test_other_convolutions_are_no_layers() -> None:
    nodes = [node("ConvTranspose", ["x", "w"], ["t"]), node("Conv", ["z", "v"], ["c"])]
    proto = model_proto(
        nodes,
        [value("x", [1, 2, 5, 5]), value("z", [1, 2, 4, 4, 4])],
        [value("t", None), value("c", None)],
        [weight("w", 2, 3, 3, 3), weight("v", 3, 2, 2, 2, 2)],
    )
    assert imported(proto).layers == ()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_what_is_added_behind_a_product_is_its_bias(shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["b", "m"], ["y"], "add")]
    proto = model_proto(nodes, [value("x", [1, 7, 5])], weights=[weight("w", 5, 3), weight("b", *shape)])
    model = imported(proto)
    assert model.layers[0].bias is not None
    assert model.constant(model.layers[0].bias).shape == shape


def test_an_operand_of_a_node_is_its_bias() -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["c"], "conv"), node("Flatten", ["c"], ["f"]),
             node("Gemm", ["f", "v", "a"], ["g"], "gemm"), node("Gemm", ["g", "u"], ["y"], "none")]  # fmt: skip
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 2), "a": (2,), "u": (2, 2)}
    weights = [weight(name, *shape) for name, shape in shapes.items()]
    model = imported(model_proto(nodes, [value("x", [1, 3, 3, 3])], weights=weights))
    assert [layer.bias for layer in model.layers] == ["b", "a", None]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "b"], ["y"])], "a number for each position"),
        ([node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "m"], ["y"])], "added to itself"),
        ([node("MatMul", ["x", "w"], ["m"], "mm"), node("Relu", ["m"], ["r"]), node("Add", ["r", "c"], ["y"])], "late"),
        ([node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "c"], ["s"]), node("Add", ["s", "m"], ["y"])],
         "something else reads the product"),
        ([node("MatMul", ["x", "w"], ["m"], "mm"), node("Add", ["m", "c"], ["s"]), node("Mul", ["s", "c"], ["y"])],
         "something else reads the constant"),
        ([node("MatMul", ["x", "w"], ["m"], "c"), node("Add", ["m", "c"], ["y"])], "a node has its name"),
    ],
)  # fmt: skip
def test_what_is_no_bias(nodes: list[onnx.NodeProto], why: str) -> None:
    weights = [weight("w", 5, 3), weight("b", 7, 3), weight("c", 3)]
    read = {name for each in nodes for name in each.input}
    proto = model_proto(nodes, [value("x", [1, 7, 5])], weights=[item for item in weights if item.name in read])
    assert [layer.bias for layer in imported(proto).layers] == [None], why


def test_nodes_without_a_name_and_with_the_same_get_their_own() -> None:
    nodes = [
        node("Conv", ["x", "a"], ["c0"]),
        node("Conv", ["c0", "b"], ["c1"], "twice"),
        node("Conv", ["c1", "c"], ["c2"], "twice"),
        node("Conv", ["c2", "d"], ["y"], "Conv_0"),
    ]
    weights = [weight(name, 3, 3, 1, 1) for name in "abcd"]
    proto = model_proto(nodes, [value("x", [1, 3, 4, 4])], weights=weights)
    names = [layer.name for layer in import_onnx(proto.SerializeToString()).layers]
    assert len(set(names)) == 4
    assert names[1] == "twice"
    assert names[3] == "Conv_0"
