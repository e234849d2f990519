"""Removing units of channels against onnxruntime: the same results as when nobody reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from hwsparse.errors import ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.model.channels import STAYS, Coupling
from hwsparse.model.coupling import couple, without
from tests.model.graphs import model_proto, node, random_feeds, run, stored, value, weight


def network(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    shape: Sequence[int] = (1, 4, 6, 6),
    opset: int = 17,
) -> Model:
    """From input x to output y."""
    proto = model_proto(nodes, [value("x", shape)], weights=weights, opset=opset)
    return import_onnx(proto.SerializeToString(), name="network")


def conv(source: str, result: str, name: str, **attributes: object) -> onnx.NodeProto:
    return node("Conv", [source, f"w_{name}", f"b_{name}"], [result], name=name, **attributes)


def of_conv(name: str, outputs: int, *shape: int) -> list[onnx.TensorProto]:
    return [weight(f"w_{name}", outputs, *shape), weight(f"b_{name}", outputs)]


HEAD = [
    node("GlobalAveragePool", ["features"], ["pooled"]),
    node("Flatten", ["pooled"], ["flat"]),
    node("Gemm", ["flat", "w_last", "b_last"], ["y"], name="last", transB=1),
]


def head(channels: int) -> list[onnx.TensorProto]:
    return [weight("w_last", 3, channels), weight("b_last", 3)]


def chain() -> Model:
    """Two convolutions with an activation, a pool and a depthwise convolution between them."""
    nodes = [
        conv("x", "a", "first"),
        node("Clip", ["a", "low", "high"], ["b"]),
        conv("b", "c", "depthwise", group=8, pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2]),
        conv("d", "features", "second"),
        *HEAD,
    ]
    limits = [stored("low", np.float32(0)), stored("high", np.float32(6))]
    weights = [*of_conv("first", 8, 4, 3, 3), *of_conv("depthwise", 8, 1, 3, 3), *of_conv("second", 6, 8, 1, 1)]
    return network(nodes, [*weights, *limits, *head(6)])


def residual() -> Model:
    """A sum ties the channels of both its sides; a gate by global means and a factor for each channel go with them."""
    nodes = [
        conv("x", "a", "stem"),
        conv("a", "b", "branch", pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["c"]),
        conv("c", "d", "back"),
        node("Add", ["a", "d"], ["e"]),
        node("GlobalAveragePool", ["e"], ["f"]),
        conv("f", "g", "squeeze"),
        conv("g", "h", "excite"),
        node("Sigmoid", ["h"], ["i"]),
        node("Mul", ["i", "e"], ["j"]),
        node("Mul", ["j", "factor"], ["features"]),
        *HEAD,
    ]
    weights = [
        *of_conv("stem", 8, 4, 1, 1), *of_conv("branch", 5, 8, 3, 3), *of_conv("back", 8, 5, 1, 1),
        *of_conv("squeeze", 3, 8, 1, 1), *of_conv("excite", 8, 3, 1, 1), weight("factor", 8, 1, 1),
    ]  # fmt: skip
    return network(nodes, [*weights, *head(8)])


def branches(opset: int = 17) -> Model:
    """Concatenated and split channels, a convolution in groups, and the flattened maps of a fully connected layer."""
    sizes = node("Split", ["d", "sizes"], ["e", "f"], axis=1)
    nodes = [
        conv("x", "a", "left"),
        conv("x", "b", "right"),
        node("Concat", ["a", "b", "x"], ["c"], axis=1),
        conv("c", "d", "mix"),
        sizes if opset >= 13 else node("Split", ["d"], ["e", "f"], axis=1, split=[4, 4]),
        conv("e", "g", "grouped", group=2, pads=[1, 1, 1, 1]),
        node("Concat", ["g", "f"], ["h"], axis=1),
        node("Reshape", ["h", "shape"], ["i"]),
        node("MatMul", ["i", "w_full"], ["j"], name="full"),
        node("Add", ["j", "b_full"], ["k"]),
        node("Tanh", ["k"], ["l"]),
        node("Gemm", ["l", "w_last", "b_last"], ["y"], name="last", transB=1),
    ]
    weights = [
        *of_conv("left", 4, 4, 1, 1), *of_conv("right", 6, 4, 1, 1), *of_conv("mix", 8, 14, 1, 1),
        *of_conv("grouped", 6, 2, 3, 3), stored("sizes", np.array([4, 4])), stored("shape", np.array([1, 360])),
        weight("w_full", 360, 7), weight("b_full", 7),
    ]  # fmt: skip
    return network(nodes, [*weights, *head(7)], opset=opset)


def branches_of_opset_11() -> Model:
    """The same where sizes are an attribute."""
    return branches(11)


def shortcut(pads: Sequence[int] = (0, 2, 0, 0, 0, 2, 0, 0), axes: Sequence[int] = (), fill: float = 0) -> Model:
    """A shortcut that takes every second position, and pads constant channels on both sides."""
    nodes = [
        conv("x", "a", "stem"),
        node("Slice", ["a", "starts", "ends", "places", "steps"], ["b"]),
        node("Pad", ["b", "pads", "fill", *(["axes"] if axes else [])], ["c"]),
        conv("a", "d", "strided", strides=[2, 2]),
        node("Add", ["c", "d"], ["e"]),
        node("Relu", ["e"], ["features"]),
        *HEAD,
    ]
    cuts = {"starts": [0, 0], "ends": [9, 9], "places": [2, 3], "steps": [2, 2], "pads": pads, "axes": axes}
    read = {name for each in nodes for name in each.input}
    constants = [stored(name, np.array(values)) for name, values in cuts.items() if name in read]
    weights = [*of_conv("stem", 4, 4, 1, 1), *of_conv("strided", 8, 4, 1, 1), stored("fill", np.float32(fill))]
    return network(nodes, [*weights, *constants, *head(8)], opset=18 if axes else 17)


def shortcut_by_axes() -> Model:
    """The same where pads are of some axes, in an order of their own."""
    return shortcut([0, 2, 0, 2], [-1, 1], 0.5)


def shortcut_by_axes_in_another_order() -> Model:
    """As many pads as there would be of all axes in their order."""
    return shortcut([2, 0, 0, 0, 2, 0, 0, 0], [1, 0, 2, 3])


def edges() -> Model:
    """Maps that are reflected at their edges, and cropped."""
    nodes = [
        conv("x", "a", "first"),
        node("Pad", ["a", "around"], ["b"], mode="reflect"),
        conv("b", "c", "depthwise", group=8),
        node("Pad", ["c", "left", "", "width"], ["d"], mode="edge"),
        node("Pad", ["d", "crop"], ["e"]),
        conv("e", "features", "second"),
        *HEAD,
    ]
    pads = {"around": [0, 0, 1, 1, 0, 0, 1, 1], "left": [2, 0], "width": [3], "crop": [0, 0, 0, -1, 0, 0, 1, 0]}
    constants = [stored(name, np.array(values)) for name, values in pads.items()]
    weights = [*of_conv("first", 8, 4, 1, 1), *of_conv("depthwise", 8, 1, 3, 3), *of_conv("second", 6, 8, 1, 1)]
    return network(nodes, [*weights, *constants, *head(6)], opset=18)


def attention() -> Model:
    """Three heads of two channels over five tokens, and a wider layer behind them; the sum around both stays."""

    def heads(name: str, perm: Sequence[int]) -> list[onnx.NodeProto]:
        return [
            node("MatMul", ["x", f"w_{name}"], [f"{name}0"], name=name),
            node("Add", [f"{name}0", f"b_{name}"], [f"{name}1"]),
            node("Reshape", [f"{name}1", "apart"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [f"{name}3"], perm=perm),
        ]

    nodes = [
        *heads("query", (0, 2, 1, 3)),
        *heads("key", (0, 2, 3, 1)),
        *heads("value", (0, 2, 1, 3)),
        node("MatMul", ["query3", "key3"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "value3"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=(0, 2, 1, 3)),
        node("Reshape", ["back", "together"], ["joined"]),
        node("MatMul", ["joined", "w_out"], ["out"], name="out"),
        node("Add", ["out", "x"], ["sum"]),
        node("LayerNormalization", ["sum", "scale", "bias"], ["normal"]),
        node("MatMul", ["normal", "w_wide"], ["wide"], name="wide"),
        node("Gelu", ["wide"], ["curved"]),
        node("MatMul", ["curved", "w_narrow"], ["narrow"], name="narrow"),
        node("Add", ["narrow", "normal"], ["y"]),
    ]
    weights = [weight(f"w_{name}", 6, 6, seed=seed) for seed, name in enumerate(("query", "key", "value"))]
    weights += [weight(f"b_{name}", 6) for name in ("query", "key", "value")]
    weights += [weight("w_out", 6, 6), weight("w_wide", 6, 9), weight("w_narrow", 9, 6)]
    weights += [weight("scale", 6), weight("bias", 6)]
    shapes = [stored("apart", np.array([1, 5, 3, 2])), stored("together", np.array([1, 5, 6]))]
    proto = model_proto(nodes, [value("x", (1, 5, 6))], weights=[*weights, *shapes], opset=20)
    return import_onnx(proto.SerializeToString(), name="attention")


NETWORKS = (
    chain, residual, branches, branches_of_opset_11, shortcut, shortcut_by_axes, shortcut_by_axes_in_another_order,
    edges, attention,
)  # fmt: skip
EXACT = {make.__name__: make for make in NETWORKS}
# Of each network: how many units can be removed.
BRANCHES = 4 + 6 + 2 + 4 + 7
UNITS = {"chain": 8 + 6, "residual": 8 + 5 + 3, "branches": BRANCHES, "branches_of_opset_11": BRANCHES, "shortcut": 8,
         "shortcut_by_axes": 8, "shortcut_by_axes_in_another_order": 8, "edges": 8 + 6, "attention": 3 + 9}  # fmt: skip


def unread(model: Model, coupling: Coupling, removed: np.ndarray) -> bytes:
    """The whole network, but for zero weights where a layer reads what is removed."""
    proto = onnx.load_from_string(model.proto)
    stored_by_name = {item.name: item for item in proto.graph.initializer}
    for layer in model.layers:
        gone = removed[coupling.columns(layer)]
        if layer.groups == 1:
            kept = model.weight(layer.name) * ~gone.reshape(1, -1, *[1] * (len(layer.weight_shape) - 2))
            stored_by_name[layer.weight].CopyFrom(
                numpy_helper.from_array(model.initializer(layer, kept.astype(np.float32)), layer.weight)
            )
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 99))
def test_what_is_left_computes_what_it_did_when_nobody_reads_the_rest(name: str, seed: int) -> None:
    model = EXACT[name]()
    coupling = couple(model)
    assert coupling.units == UNITS[name]
    rng = np.random.default_rng(seed)
    removed = np.zeros(1 + coupling.units, bool)
    removed[1:] = rng.random(coupling.units) < 0.5
    for layer in model.layers:  # something is left of each
        removed[coupling.rows(layer)[0]] = False
    narrow = without(model, coupling, removed)
    feeds = random_feeds(model, seed)
    (expected,), (found,) = run(unread(model, coupling, removed), feeds), run(narrow.proto, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert [layer.name for layer in narrow.layers] == [layer.name for layer in model.layers]
    for layer in model.layers:
        rows = np.count_nonzero(~removed[coupling.rows(layer)])
        assert narrow.layer(layer.name).outputs == rows


def test_a_mean_and_a_norm_over_channels_are_over_those_that_are_left() -> None:
    """Among them a mean that is written as a sum times a constant."""
    nodes = [
        node("Gemm", ["x", "w_first", "b_first"], ["a"], name="first", transB=1),
        node("ReduceSum", ["a", "axes"], ["sum"], keepdims=1),
        node("Mul", ["sum", "eighth"], ["mean"]),
        node("Sub", ["a", "mean"], ["centred"]),
        node("LayerNormalization", ["centred", "scale", "bias"], ["normal"]),
        node("Gemm", ["normal", "w_last", "b_last"], ["y"], name="last", transB=1),
    ]
    weights = [weight("w_first", 8, 5), weight("b_first", 8), weight("scale", 8), weight("bias", 8)]
    constants = [stored("axes", np.array([1])), stored("eighth", np.float32(1 / 8))]
    model = network(nodes, [*weights, *constants, *head(8)], (1, 5))
    coupling = couple(model)
    removed = np.zeros(9, bool)
    kept = [0, 3, 4, 6, 7]
    removed[coupling.rows(model.layer("first"))] = True
    removed[coupling.rows(model.layer("first"))[kept]] = False
    feeds = random_feeds(model)
    stored_by_name = {item.name: numpy_helper.to_array(item) for item in (*weights, *head(8))}
    a = (feeds["x"] @ stored_by_name["w_first"].T + stored_by_name["b_first"])[:, kept]
    normal = (a - a.mean()) / np.sqrt(a.var() + 1e-5) * stored_by_name["scale"][kept] + stored_by_name["bias"][kept]
    expected = normal @ stored_by_name["w_last"][:, kept].T + stored_by_name["b_last"]
    np.testing.assert_allclose(run(without(model, coupling, removed).proto, feeds)[0], expected, rtol=1e-3, atol=1e-4)


STOPPED = {
    "unknown operator": [node("CumSum", ["a", "one"], ["b"])],
    "softmax over channels": [node("Softmax", ["a"], ["b"], axis=1)],
    "sum over channels": [node("ReduceSum", ["a", "axes"], ["s"], keepdims=1), node("Mul", ["a", "s"], ["b"])],
    "some of them": [node("Slice", ["a", "axes", "end", "axes"], ["b"])],
    "in another order": [node("Gather", ["a", "order"], ["b"], axis=1)],
    "backwards": [node("Slice", ["a", "minus", "least", "axes", "minus"], ["b"])],
    "repeated": [node("Pad", ["a", "pads"], ["b"], mode="reflect")],
    "cropped": [node("Pad", ["a", "crop", "", "axes"], ["b"])],
}
CONSTANTS = {
    "pads": [0, 2, 0, 2],
    "crop": [-1, 2],
    "one": 1,
    "axes": [1],
    "end": [8],
    "order": [7, 6, 5, 4, 3, 2, 1, 0],
    "minus": [-1],
    "least": [-9],
}


@pytest.mark.parametrize("name", STOPPED)
def test_channels_that_cannot_be_told_apart_stay(name: str) -> None:
    nodes = [
        node("Gemm", ["x", "w_first", "b_first"], ["a"], name="first", transB=1),
        *STOPPED[name],
        node("Gemm", ["b", "w_last", "b_last"], ["y"], name="last", transB=1),
    ]
    read = {operand for item in nodes for operand in item.input}
    constants = [stored(key, np.array(value)) for key, value in CONSTANTS.items() if key in read]
    behind = {"some of them": 7, "repeated": 12, "cropped": 9}.get(name, 8)
    weights = [weight("w_first", 8, 5), weight("b_first", 8), *head(behind), *constants]
    model = network(nodes, weights, (1, 5), opset=18 if name == "cropped" else 17)
    assert couple(model).units == 0


@pytest.mark.parametrize("other", ["x", "tinted"])
def test_one_channel_that_meets_many_which_cannot_be_followed_stays(other: str) -> None:
    """A gate in space: what has one channel is spread over those of a network's input, or of a constant."""
    nodes = [
        conv("x", "a", "first"),
        node("Sigmoid", ["a"], ["gate"]),
        node("Mul", ["gate", other], ["b"]),
        conv("b", "features", "second"),
        *HEAD,
    ]
    weights = [*of_conv("first", 1, 4, 1, 1), *of_conv("second", 8, 4, 1, 1), *head(8)]
    if other == "tinted":
        weights.append(weight("tinted", 1, 4, 1, 1))
    coupling = couple(network(nodes, weights))
    model = network(nodes, weights)
    assert not coupling.rows(model.layer("first")).any()
    assert not coupling.columns(model.layer("second")).any()
    assert coupling.units == 8


@pytest.mark.parametrize(("opset", "stay"), [(11, True), (13, False)])
def test_a_softmax_of_an_older_opset_is_over_channels_too(opset: int, stay: bool) -> None:
    nodes = [conv("x", "a", "first"), node("Softmax", ["a"], ["features"]), *HEAD]
    model = network(nodes, [*of_conv("first", 8, 4, 1, 1), *head(8)], opset=opset)
    assert (couple(model).units == 0) == stay


def test_a_constant_that_others_read_too_is_cut_for_one() -> None:
    """Equal constants are one in a canonical graph: here two biases, and a factor that the output needs whole."""
    nodes = [
        conv("x", "a", "first"),
        node("Conv", ["a", "w_second", "b_first"], ["b"], name="second"),
        node("Mul", ["b", "factor"], ["features"]),
        *HEAD[:2],
        node("Gemm", ["flat", "w_last", "b_last"], ["z"], name="last", transB=1),
        node("Mul", ["x", "factor"], ["scaled"]),
        node("ReduceMean", ["scaled"], ["mean"], keepdims=0),
        node("Add", ["z", "mean"], ["y"]),
    ]
    weights = [*of_conv("first", 4, 4, 1, 1), weight("w_second", 4, 4, 1, 1), weight("factor", 4, 1, 1), *head(4)]
    model = network(nodes, weights)
    coupling = couple(model)
    removed = np.zeros(1 + coupling.units, bool)
    removed[coupling.rows(model.layer("first"))[0]] = removed[coupling.rows(model.layer("second"))[1:3]] = True
    narrow, feeds = without(model, coupling, removed), random_feeds(model)
    assert [layer.outputs for layer in narrow.layers] == [3, 2, 3]
    expected, found = run(unread(model, coupling, removed), feeds), run(narrow.proto, feeds)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


def test_nothing_is_left_of_an_axis() -> None:
    model = chain()
    coupling = couple(model)
    removed = np.ones(1 + coupling.units, bool)
    removed[STAYS] = False
    with pytest.raises(ModelError, match="no channel would be left"):
        without(model, coupling, removed)
