"""Networks whose layers hand on bytes, against onnxruntime on the values that bytes stand for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType

from hwsparse.codegen import Library, build_model, random_inputs, refusal
from hwsparse.codegen.lowering import lower
from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import CompileError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.probe import cpu_flags
from hwsparse.quantise import Scale, split_weights
from hwsparse.sparsify import applicable, apply_plan, pruned_proto
from hwsparse.sparsify.ranges import as_bytes, coarse_notes, tensor_ranges
from hwsparse.target import load_target
from tests.codegen.building import Network
from tests.codegen.compiling import with_flags
from tests.codegen.layers import CPU
from tests.codegen.test_networks import convolutional, transformer
from tests.model.graphs import model_proto, node, run, stored, value
from tests.model.qdq import pictures, quantised, samples, without_last_pair


def in_bytes(model: Model, text: str, floats: Collection[str] = ()) -> tuple[Plan, dict[str, np.ndarray]]:
    """A plan of int8 for every layer that can have it but `floats`, sparse where it can be, and its weights."""
    sparse = replace(parse_choice(text), dtype="int8")
    choices = {}
    for layer in model.layers:
        choice = sparse if applicable(layer, sparse.pattern) is None else Choice(dtype="int8")
        if layer.name not in floats and refusal(layer, choice) is None:
            choices[layer.name] = choice
    plan = Plan.of(model.digest, choices)
    ranges = tensor_ranges(model, [random_inputs(model.inputs, seed) for seed in range(3)])
    return plan, as_bytes(model, plan, apply_plan(model, plan), ranges)


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512", "vnni", "fpga-sim"])
@pytest.mark.parametrize(("batch", "text"), [(1, "block4x4@0.5"), (2, "dense"), (1, "block1x4@0.7")])
def test_a_network_computes_what_onnxruntime_does(make, name: str, batch: int, text: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = with_flags("x86-avx512", "avx512_vnni") if name == "vnni" else load_target(name)
    if not cpu_flags() >= set(target.isa):
        pytest.skip(f"this machine has no {', '.join(set(target.isa) - cpu_flags())}")
    # Sizes are drawn: such as have some layers whose inputs are multiples of four.
    drawn = (make(batch, seed) for seed in count(batch))
    model = next(each for each in drawn if len(in_bytes(each, text)[0].choices) >= 4)
    plan, weights = in_bytes(model, text)
    inputs = random_inputs(model.inputs, 7)
    outputs = build_model(model, plan, weights, target, tmp_path).run(inputs)
    expected, floats = onnxruntime_answers(model, weights, inputs), onnxruntime_answers(model, {}, inputs)
    for output, exact in expected.items():
        largest = np.abs(exact).max()
        # Where rounding tips a byte over, what it adds to goes another way by a step.
        assert np.abs(outputs[output] - exact).max() <= 0.02 * largest
        if text == "dense":
            assert np.abs(floats[output] - exact).max() <= 0.3 * largest


@pytest.mark.parametrize(
    ("make", "kind"), [(convolutional, QuantType.QUInt8), (pictures, QuantType.QInt8)], ids=["QUInt8", "QInt8"]
)
def test_a_quantised_network_gives_what_its_file_does(make, kind: QuantType, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """No answer is a step away from onnxruntime's, before the file rounds and clips it: what ships does not."""
    floats = onnx.load_from_string(make(1, 1).proto) if make is convolutional else make()
    shape = shape_of_input(floats)
    proto = quantised(floats, samples(shape=shape), activation_type=kind, weight_type=QuantType.QInt8, per_channel=True)
    model, _, network = compiled_from(proto, tmp_path)
    (output,) = model.outputs
    low, high = model.ranges[output.name]
    for feeds in samples(3, seed=7, shape=shape):
        (expected,) = run(without_last_pair(proto).SerializeToString(), feeds)
        assert np.abs(network.run(feeds)[output.name] - expected).max() <= (high - low) / 255


@pytest.mark.parametrize("make", [convolutional, pictures, transformer], ids=lambda make: make.__name__)
def test_a_network_quantised_where_layers_read_gives_what_its_file_does(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Both round at the same places; where a sum tips a byte over, no answer moves by a step."""
    floats = make() if make is pictures else onnx.load_from_string(make(1, 1).proto)
    shape, kinds = shape_of_input(floats), ["Conv", "Gemm", "MatMul"]
    constants = {item.name for item in floats.graph.initializer}
    proto = quantised(
        floats,
        samples(shape=shape),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=kinds,
        nodes_to_exclude=[each.name for each in floats.graph.node if constants.isdisjoint(each.input)],
        extra_options={"OpTypesToExcludeOutputQuantization": kinds},
    )
    model, weights, network = compiled_from(proto, tmp_path)
    (output,) = model.outputs
    seen = np.array([run(floats.SerializeToString(), feeds)[0] for feeds in samples(shape=shape)])
    step = (max(seen.max(), 0) - min(seen.min(), 0)) / 255  # as if the answers were bytes too
    for feeds in samples(3, seed=7, shape=shape):
        (expected,) = run(proto.SerializeToString(), feeds)
        (told,) = onnxruntime_answers(model, weights, feeds).values()
        assert np.abs(told - expected).max() <= 0.1 * step
        assert np.abs(network.run(feeds)[output.name] - expected).max() <= step


def shape_of_input(proto: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim)


def compiled_from(proto: onnx.ModelProto, directory: Path) -> tuple[Model, dict[str, np.ndarray], Library]:
    """A file in QDQ format imported, and compiled with every layer int8 by the ranges that it states."""
    model = import_onnx(proto.SerializeToString(), name="quantised")
    layers = [layer.name for layer in model.layers if refusal(layer, Choice(dtype="int8")) is None]
    assert len(layers) >= 4
    plan = Plan.of(model.digest, {name: Choice(dtype="int8") for name in layers})
    weights = as_bytes(model, plan, {}, model.ranges)
    return model, weights, build_model(model, plan, weights, CPU, directory)


@pytest.mark.parametrize("kind", ["outlier", "constant", "far"])
def test_odd_values_are_rounded_as_onnxruntime_rounds_them(kind: str, tmp_path: Path) -> None:
    """One value a million times the others, a layer that only ever reads zeros, values of 1000 give or take 1."""
    net, shape = Network(9), (1, 8, 6, 6)
    hidden = net.node("Relu", net.conv("x", 8, 8, 3))
    if kind == "constant":
        hidden = net.node("Mul", hidden, net.array(np.float32(0)))
    elif kind == "far":
        hidden = net.node("Add", net.node("Tanh", hidden), net.array(np.float32(1000)))
    model = net.model(shape, (last := net.conv(hidden, 8, 8, 1), shape))
    plan = Plan.of(model.digest, {layer.name: Choice(dtype="int8") for layer in model.layers})
    seen = [random_inputs(model.inputs, seed) for seed in range(3)]
    if kind == "outlier":
        seen[1]["x"][0, 3, 2, 2] = 1e6
    ranges = tensor_ranges(model, seen)
    weights = as_bytes(model, plan, {}, ranges)
    network = build_model(model, plan, weights, CPU, tmp_path)
    for feeds in (random_inputs(model.inputs, 7), seen[1]):
        (expected,) = onnxruntime_answers(model, weights, feeds).values()
        found = network.run(feeds)[last]
        assert np.isfinite(found).all()
        # Where the sum of a byte lies between two, it may tip over: a step of what is read, by its largest weight.
        read = {node.name: node.input[0] for node in onnx.load_from_string(model.proto).graph.node}
        final = model.layers[-1].name
        step = Scale.of(*ranges[read[final]]).scale * np.abs(weights[final]).max()
        assert np.abs(found - expected).max() <= step + 1e-5 * np.abs(expected).max()
        assert (np.abs(found - expected) <= 1e-5 * np.abs(expected).max()).mean() > 0.9
    assert bool(coarse_notes(model, plan, weights)) == (kind == "far")


def lowered(net: Network, *outputs: str, floats: Collection[str] = ()) -> list[tuple[str, str]]:
    """What is called to compute outputs (1, 8, 6, 6) of an input as large, and of what type it gives, in order.

    Args:
        floats: layers that are not int8.
    """
    shape = (1, 8, 6, 6)
    model = net.model(shape, *((name, shape) for name in outputs))
    plan, weights = in_bytes(model, "dense", floats)
    script = lower(model, plan, weights, CPU).module["main"].script()
    calls = re.findall(r"R\.call_tir(?:_inplace)?\((\w+),.*?out_ty=.*?dtype=\"(\w+)\"", script)
    return [(name.partition("_")[0], dtype) for name, dtype in calls]


def test_layers_in_a_row_hand_on_bytes() -> None:
    net = Network(0)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    calls = lowered(net, net.conv(net.node("Relu", net.conv(x, 8, 8, 1)), 8, 8, 3))
    assert calls == [("quantise", "uint8"), ("bytes", "uint8"), ("bytes", "uint8"), ("bytes", "float32")]


def test_what_a_layer_and_a_sum_read_is_bytes_for_both() -> None:
    net = Network(1)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    inner = net.node("Relu", net.conv(x, 8, 8, 3))
    y = net.node("Relu", net.node("Add", net.conv(inner, 8, 8, 1), x))
    calls = lowered(net, net.conv(y, 8, 8, 1))
    assert calls == [("quantise", "uint8"), *[("bytes", "uint8")] * 3, ("bytes", "float32")]


def test_what_others_read_too_stays_in_floats() -> None:
    net = Network(2)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    pooled = net.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    calls = lowered(net, net.conv(x, 8, 8, 1), pooled)
    first, second = [("quantise", "uint8"), ("bytes", "float32")], [("quantise", "uint8"), ("bytes", "float32")]
    assert calls == [*first, *second, ("pool", "float32")]


def test_a_depthwise_layer_hands_on_bytes_where_bytes_are_read() -> None:
    net = Network(4)
    x = net.node("Relu", net.conv("x", 8, 8, 1))
    depth = net.node("Clip", net.conv(x, 8, 8, 3, group=8), net.array(np.float32(0)), net.array(np.float32(6)))
    last = net.conv(depth, 8, 8, 1)
    convolution = net.nodes[-3].name
    assert net.nodes[-3].op_type == "Conv"
    first, ends = ("quantise", "uint8"), ("bytes", "float32")
    assert lowered(net, last) == [first, *[("bytes", "uint8")] * 2, ends]
    # Of floats it stores bytes all the same.
    assert lowered(net, last, floats=[convolution]) == [first, ends, ("depthwise", "uint8"), ends]


@pytest.mark.parametrize("depthwise_first", [False, True])
def test_of_a_depthwise_layer_and_another_that_are_added_the_other_adds(depthwise_first: bool) -> None:
    net = Network(7)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    groups = (8, 1) if depthwise_first else (1, 8)
    first, second = (net.conv(x, 8, 8, 3, group=group) for group in groups)
    y = net.conv(net.node("Relu", net.node("Add", first, second)), 8, 8, 1)
    calls = lowered(net, y)
    assert calls == [("quantise", "uint8"), *[("bytes", "uint8")] * 3, ("bytes", "float32")]


def test_what_depthwise_layers_alone_could_add_is_added_in_floats() -> None:
    net = Network(8)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    shortcut = net.node("Add", net.conv(x, 8, 8, 3, group=8), x)
    model = net.model((1, 8, 6, 6), (shortcut, (1, 8, 6, 6)))
    _, weights = in_bytes(model, "dense")
    graph = onnx.load_from_string(pruned_proto(model, weights)).graph
    (add,) = (node for node in graph.node if node.op_type == "Add")
    assert x in add.input  # as it is, and not what bytes stand for


def test_a_range_that_nobody_told_is_one_clear_error() -> None:
    net = Network(3)
    y = net.conv("x", 8, 8, 3)
    model = net.model((1, 8, 6, 6), (y, (1, 8, 6, 6)))
    plan = Plan.of(model.digest, {model.layers[0].name: Choice(dtype="int8")})
    with pytest.raises(CompileError, match=r"is to read bytes, and nothing tells the range of what it reads"):
        lower(model, plan, {}, CPU)


def with_own_rounding(scale: Scale) -> Model:
    """A model that rounds what a layer reads just as we would, of its own accord."""
    net = Network(5)
    scaled = net.node("Mul", "x", net.array(np.float32(scale.inverse)))
    ends = (net.array(np.float32(end - scale.zero)) for end in (0, 255))
    clipped = net.node("Clip", net.node("Round", scaled), *ends)
    y = net.conv(net.node("Mul", clipped, net.array(np.float32(scale.scale))), 8, 8, 3)
    return net.model((1, 8, 6, 6), (y, (1, 8, 6, 6)))


def test_a_model_that_rounds_on_its_own_tells_no_range(tmp_path: Path) -> None:
    model = with_own_rounding(Scale.of(-3, 3))
    (layer,) = model.layers
    plan, weights = in_bytes(model, "dense")
    assert list(split_weights(weights).plain) == list(plan.in_bytes) == [layer.name]
    with pytest.raises(CompileError, match="is to read bytes, and nothing tells the range of what it reads"):
        lower(model, plan, split_weights(weights).plain, CPU)
    inputs = random_inputs(model.inputs, 3)
    (found,) = build_model(model, plan, weights, CPU, tmp_path).run(inputs).values()
    (expected,) = onnxruntime_answers(model, weights, inputs).values()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_no_layer_reads_as_bytes_is_rounded_as_it_stands(tmp_path: Path) -> None:
    """Here of two ranges the layer of one is float32: it reads values as bytes stand for them."""
    net = Network(6)
    y = net.conv(net.node("Relu", net.conv("x", 8, 8, 3)), 8, 8, 3)
    model = net.model((1, 8, 6, 6), (y, (1, 8, 6, 6)))
    plan, weights = in_bytes(model, "dense")
    half = Plan.of(model.digest, {model.layers[1].name: plan.choice(model.layers[1].name)})
    made = lower(model, half, weights, CPU)
    assert len(made.module["main"].params) == 1 + len(made.parameters)
    inputs = random_inputs(model.inputs, 3)
    (found,) = build_model(model, half, weights, CPU, tmp_path).run(inputs).values()
    (expected,) = onnxruntime_answers(model, weights, inputs).values()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_whatever_a_model_calls_its_tensors(dtype: str, tmp_path: Path) -> None:
    """Names that what is put into its graph would have are taken."""
    taken = ("weight_0", "step_0", "x/as bytes", "x/as bytes/low", "x/as bfloat16", "x/as bfloat16/cut")
    nodes, last = [node("Conv", ["x", "w"], ["c"], name="x/as bytes/scaled")], "c"
    for place, name in enumerate(taken):
        nodes.append(node("Add", [last, name], [(last := f"sum{place}")], name=f"add{place}"))
    shape, weight = (1, 8, 5, 5), np.random.default_rng(1).standard_normal((8, 8, 1, 1)).astype(np.float32)
    inputs, constants = [value(name, shape) for name in ("x", "weight_0", "step_0")], taken[2:]
    proto = model_proto(
        nodes,
        inputs,
        outputs=[value(last, None)],
        weights=[stored("w", weight), *(stored(name, np.float32(place)) for place, name in enumerate(constants))],
    )
    model = import_onnx(proto.SerializeToString(), name="taken")
    plan = Plan.of(model.digest, {"x/as bytes/scaled": Choice(dtype=dtype)})
    weights = as_bytes(model, plan, {}, {"x": (-3.0, 3.0)})
    given = random_inputs(model.inputs, 3)
    (found,) = build_model(model, plan, weights, CPU, tmp_path).run(given).values()
    (expected,), (plain,) = (onnxruntime_answers(model, each, given).values() for each in (weights, {}))
    assert not np.array_equal(expected, plain)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_weight_that_was_not_rounded_is_one_clear_error() -> None:
    net = Network(3)
    y = net.conv("x", 8, 8, 3)
    model = net.model((1, 8, 6, 6), (y, (1, 8, 6, 6)))
    plan, weights = in_bytes(model, "dense")
    (name,) = (layer.name for layer in model.layers)
    lower(model, plan, weights, CPU)
    for weight in (model.weight(name), weights[name] * (1 + 1e-3 * np.eye(8, dtype=np.float32)[:, :, None, None])):
        with pytest.raises(CompileError, match=f"layer '{name}' is to be of bytes, and its weight was not rounded"):
            lower(model, plan, {**weights, name: weight}, CPU)


def test_what_is_pooled_for_a_layer_is_pooled_in_bytes() -> None:
    net = Network(4)
    x = net.node("Relu", net.conv("x", 8, 8, 3))
    pooled = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    calls = lowered(net, net.conv(pooled, 8, 8, 1))
    assert calls == [("quantise", "uint8"), ("bytes", "uint8"), ("pool", "uint8"), ("bytes", "float32")]
