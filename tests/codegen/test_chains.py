"""What kernels take over after a product: activations in many forms, shortcuts, reshapes; against onnxruntime."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwsparse.codegen import build_model, lowering, relative_error
from hwsparse.codegen.chains import Chain
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan
from tests.codegen.layers import CPU

RNG = np.random.default_rng(0)
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "root2": math.sqrt(2), "inverse": math.sqrt(0.5),
    "slope": math.sqrt(2 / math.pi), "cubic": 0.044715,
}  # fmt: skip


def model(nodes: list[NodeProto], shape: list[int], out_shape: list[int], **weights: tuple[int, ...]) -> Model:
    stored = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in NUMBERS.items()]
    stored += [
        numpy_helper.from_array((RNG.standard_normal(size) * 0.5).astype(np.float32), name)
        for name, size in weights.items()
    ]
    whole = {"three_axes": [1, 6, 16], "from": [0], "to": [9], "axes": [3], "last": [2]}
    stored += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in whole.items()]
    ports = [
        helper.make_tensor_value_info(*port)
        for port in (("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, out_shape))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    return import_onnx(proto.SerializeToString(), name="network")


def chains_of(model: Model) -> dict[str, Chain]:
    names = lowering._weight_names(model)
    module = lowering._simplified(lowering._import(model, names, {}).module)
    return {chain.layer.name: chain for chain in lowering._find_all_chains(model, module, names)}


def agrees(model: Model, directory: Path) -> bool:
    library = build_model(model, Plan(model.digest), {}, CPU, directory)
    inputs = {spec.name: RNG.standard_normal(spec.shape).astype(np.float32) for spec in model.inputs}
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    return relative_error(library.run(inputs)["y"], expected) < 1e-5


# Each a list of operator and inputs; a name's own number is its line's, "a" is the product.
FORMS: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "divided": ("gelu", [
        ("Div", "a", "root2"), ("Erf", "0"), ("Add", "1", "one"), ("Mul", "a", "2"), ("Mul", "3", "half"),
    ]),
    "halved first": ("gelu", [
        ("Mul", "half", "a"), ("Mul", "a", "inverse"), ("Erf", "1"), ("Add", "one", "2"), ("Mul", "3", "0"),
    ]),
    "whole": ("gelu", [("Gelu", "a")]),
    "by tanh": ("gelu_tanh", [
        ("Pow", "a", "three"), ("Mul", "0", "cubic"), ("Add", "a", "1"), ("Mul", "2", "slope"), ("Tanh", "3"),
        ("Add", "4", "one"), ("Mul", "a", "5"), ("Mul", "6", "half"),
    ]),
    "silu": ("silu", [("Sigmoid", "a"), ("Mul", "0", "a")]),
    "hard swish": ("hard_swish", [("HardSwish", "a")]),
    "sigmoid": ("sigmoid", [("Sigmoid", "a")]),
    "tanh": ("tanh", [("Tanh", "a")]),
    "another slope": ("", [("Mul", "a", "two"), ("Sigmoid", "0"), ("Mul", "1", "a")]),
    "used again": ("", [("Sigmoid", "a"), ("Mul", "0", "a"), ("Add", "0", "1")]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["product", "convolution", "depthwise", "vector"])
def test_activations(kind: str, form: str, tmp_path: Path) -> None:
    function, lines = FORMS[form]
    product, shape, out_shape, weight = {
        "product": (helper.make_node("MatMul", ["x", "w"], ["a"], "layer"), [1, 9, 8], [1, 9, 20], (8, 20)),
        "vector": (helper.make_node("MatMul", ["x", "w"], ["a"], "layer"), [1, 8], [1, 20], (8, 20)),
        "convolution": (helper.make_node("Conv", ["x", "w"], ["a"], "layer"), [1, 4, 7, 7], [1, 6, 5, 5], (6, 4, 3, 3)),
        "depthwise": (
            helper.make_node("Conv", ["x", "w"], ["a"], "layer", group=4), [1, 4, 9, 9], [1, 4, 7, 7], (4, 1, 3, 3)
        ),
    }[kind]  # fmt: skip
    nodes = [product]
    for number, (operator, *inputs) in enumerate(lines):
        nodes.append(helper.make_node(operator, inputs, [str(number)]))
    nodes[-1].output[0] = "y"
    network = model(nodes, shape, out_shape, w=weight)
    assert chains_of(network)["layer"].function == function
    assert agrees(network, tmp_path)


@pytest.mark.parametrize("operands", [("a", "b"), ("b", "a")])
def test_a_sum_of_two_convolutions_is_made_by_the_later(operands: tuple[str, str], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], "first"),
        helper.make_node("Conv", ["x", "w"], ["b"], "second"),
        helper.make_node("Add", list(operands), ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    network = model(nodes, [1, 4, 6, 6], [1, 8, 6, 6], v=(8, 4, 1, 1), w=(8, 4, 1, 1))
    assert sorted(chain.residual is not None for chain in chains_of(network).values()) == [False, True]
    assert agrees(network, tmp_path)


def test_rows_may_be_counted_in_another_way_before_a_sum(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"], "first"),
        helper.make_node("Reshape", ["a", "three_axes"], ["b"]),
        helper.make_node("Add", ["b", "bias"], ["c"]),
        helper.make_node("Add", ["shortcut", "c"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]
    network = model(nodes, [2, 3, 8], [1, 6, 16], v=(8, 16), bias=(16,), shortcut=(1, 6, 16))
    chain = chains_of(network)["first"]
    assert chain.bias is not None and chain.residual is not None and chain.function == "sigmoid"
    assert agrees(network, tmp_path)


def test_slices_that_take_everything_and_lost_axes_are_no_obstacle(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "layer"),
        helper.make_node("Slice", ["a", "from", "to", "axes"], ["b"]),
        helper.make_node("Squeeze", ["b", "axes"], ["c"]),
        helper.make_node("Add", ["c", "bias"], ["d"]),
        helper.make_node("Gelu", ["d"], ["e"], approximate="tanh"),
        helper.make_node("ReduceMax", ["e", "last"], ["y"], keepdims=1),
    ]
    network = model(nodes, [1, 4, 20, 1], [1, 6, 1], w=(6, 4, 3, 1), bias=(1, 6, 1))
    chain = chains_of(network)["layer"]
    assert chain.bias is not None and chain.function == "gelu_tanh"
    assert agrees(network, tmp_path)
