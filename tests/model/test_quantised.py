"""Models that are quantised already: the network without its rounding, and the ranges that it states."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic

from hwsparse.errors import ModelError
from hwsparse.model import Model, import_onnx
from hwsparse.quantise import Scale, rounded, weight_bytes
from hwsparse.sparsify.apply import pruned_model
from tests.model.graphs import model_proto, node, run, stored, value
from tests.model.qdq import pictures, quantised, samples

SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
UNSIGNED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
MIXED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
WAYS = [
    SIGNED,
    UNSIGNED,
    MIXED,
    {**MIXED, "per_channel": True},
    {**MIXED, "per_channel": True, "reduce_range": True},
    {**SIGNED, "extra_options": SYMMETRIC},
    {**SIGNED, "extra_options": {"QDQKeepRemovableActivations": True}},
    {**SIGNED, "extra_options": {"AddQDQPairToWeight": True}},
    {**SIGNED, "extra_options": {"DedicatedQDQPair": True}},
]


def imported(proto: onnx.ModelProto, name: str = "quantised") -> Model:
    return import_onnx(proto.SerializeToString(), name=name)


def read_by_layers(model: Model) -> dict[str, str]:
    """What each layer reads, by its name."""
    names = {layer.name for layer in model.layers}
    return {each.name: each.input[0] for each in onnx.load_from_string(model.proto).graph.node if each.name in names}


def operators(model: Model) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model.proto).graph.node]


def arrays_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def scales_of(proto: onnx.ModelProto) -> dict[str, tuple[float, int, np.dtype]]:
    """Of a file's pairs, by the tensor they are around: scale, zero, type."""
    found = arrays_of(proto)
    return {
        each.input[0]: (float(found[each.input[1]]), int(found[each.input[2]]), found[each.input[2]].dtype)
        for each in proto.graph.node
        if each.op_type == "QuantizeLinear" and each.input[0] not in found
    }


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_quantised_network_is_the_float_one_that_its_bytes_stand_for(way: dict[str, object]) -> None:
    floats = pictures()
    proto = quantised(floats, samples(), **way)
    model, plain = imported(proto), imported(floats)
    assert [layer.name for layer in model.layers] == ["first", "second", "third", "last"]
    assert all(layer.bias or layer.name in ("second", "third") for layer in model.layers)
    assert set(operators(model)) <= {*operators(plain), "Clip"}
    for feeds in samples(3, seed=5):
        (bytes_say,), (ours,) = run(proto.SerializeToString(), feeds), run(model.proto, feeds)
        (dense,) = run(plain.proto, feeds)
        assert np.abs(ours - bytes_say).max() <= 0.1 * np.abs(bytes_say).max()
        assert np.abs(ours - dense).max() <= 0.1 * np.abs(dense).max()


@pytest.mark.parametrize("way", WAYS[:5], ids=str)
def test_weights_are_what_their_bytes_stand_for(way: dict[str, object]) -> None:
    proto = quantised(pictures(), samples(), **way)
    model, found = imported(proto), arrays_of(proto)
    for name in ("first", "second", "third", "last"):
        coded, scale, zero = (found[f"w_{name}{end}"] for end in ("_quantized", "_scale", "_zero_point"))
        per_row = (-1, *[1] * (coded.ndim - 1))
        away = (coded.astype(np.int32) - zero.astype(np.int32).reshape(per_row)).astype(np.float32)
        expected = away * scale.reshape(per_row)
        np.testing.assert_array_equal(model.weight(name), expected)
        if coded.dtype == np.int8 and scale.size > 1 and not way.get("reduce_range"):
            np.testing.assert_array_equal(weight_bytes(model.weight(name))[0], coded)


@pytest.mark.parametrize("way", WAYS[:6], ids=str)
def test_ranges_are_those_of_the_file(way: dict[str, object]) -> None:
    proto = quantised(pictures(), samples(), **way)
    model, stated = imported(proto), scales_of(proto)
    sources = read_by_layers(model)
    # What each layer reads in the file that was quantised, where activations were left to the bytes.
    before = {"first": "x", "second": "b", "third": "f", "last": "j"}
    for name, tensor in sources.items():
        scale, zero, dtype = stated[before[name]]
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        assert model.ranges[tensor] == pytest.approx((scale * (low - zero), scale * (high - zero)), rel=1e-6)
        again = Scale.of(*(float(np.float32(end)) for end in model.ranges[tensor]))
        assert again.scale == pytest.approx(scale, rel=1e-6) and again.zero == zero - low


def by_hand(*between: onnx.NodeProto, kind: type = np.uint8, scale: float = 1.0, zero: int = 0) -> onnx.ModelProto:
    """x, bytes, what is `between` (from q to r), floats, a 1x1 convolution of small whole numbers, y."""
    rng = np.random.default_rng(0)
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="begin"),
        *(between or [node("Identity", ["q"], ["r"], name="between")]),
        node("DequantizeLinear", ["r", "scale", "zero"], ["f"], name="end"),
        node("DequantizeLinear", ["w", "w_scale"], ["w_float"], name="weight"),
        node("Conv", ["f", "w_float"], ["y"], name="conv"),
    ]
    weights = [
        stored("scale", np.float32(scale)),
        stored("zero", np.array(zero, kind)),
        stored("w", rng.integers(-3, 4, (4, 4, 1, 1)).astype(np.int8)),
        stored("w_scale", np.float32(0.5)),
    ]
    return model_proto(nodes, [value("x", [1, 4, 6, 6])], weights=weights, opset=13)


def replaced(proto: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    for item in proto.graph.initializer:
        if item.name in arrays:
            item.CopyFrom(stored(item.name, arrays[item.name]))
    return proto


def named(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in proto.graph.node if each.name == name)


def test_what_quantisers_leave_to_bytes_is_put_back() -> None:
    """On whole numbers bytes round nothing: both networks give the same, where values end at 0 and at 255 too."""
    nodes = [
        node("QuantizeLinear", ["x", "one", "middle"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "one", "middle"], ["x_f"]),
        node("Conv", ["x_f", "w1"], ["a"], name="first"),
        node("QuantizeLinear", ["a", "one", "lowest"], ["a_q"]),
        node("DequantizeLinear", ["a_q", "one", "lowest"], ["a_f"], name="left_to_bytes"),
        node("Relu", ["x_f"], ["b"]),
        node("QuantizeLinear", ["b", "one"], ["b_q"]),
        node("DequantizeLinear", ["b_q", "one"], ["b_f"]),
        node("Conv", ["a_f", "w2"], ["c"], name="second"),
        node("Conv", ["b_f", "w3"], ["d"], name="third"),
        node("Add", ["c", "d"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    matrices = [rng.integers(-9, 10, (4, 4, 1, 1)).astype(np.float32) for _ in range(3)]
    constants = {"one": np.float32(1), "middle": np.int8(0), "lowest": np.int8(-128)}
    proto = model_proto(
        nodes,
        [value("x", [1, 4, 6, 6])],
        weights=[stored(f"w{place}", each) for place, each in enumerate(matrices, 1)]
        + [stored(name, each) for name, each in constants.items()],
    )
    model = imported(proto)
    assert sorted(operators(model)) == ["Add", "Clip", "Conv", "Conv", "Conv", "Relu"]
    assert model.ranges["x"] == (-128, 127)
    assert {model.ranges[name] for name in read_by_layers(model).values()} == {(-128, 127), (0, 255)}
    feeds = {"x": rng.integers(-20, 21, (1, 4, 6, 6)).astype(np.float32)}
    reference = np.einsum("oi,bihw->bohw", matrices[0][:, :, 0, 0], feeds["x"])
    assert reference.min() < 0 and reference.max() > 255  # or nothing would be left to bytes
    np.testing.assert_array_equal(run(model.proto, feeds)[0], run(proto.SerializeToString(), feeds)[0])


@pytest.mark.parametrize("name", ["f/low", "f/high", "f/low_1"])
def test_bounds_take_no_name_that_a_graph_has(name: str) -> None:
    proto = by_hand()
    named(proto, "begin").input[0] = "negative"
    named(proto, "conv").input[0] = "moved"
    proto.graph.node.insert(0, node("Neg", ["x"], ["negative"]))
    proto.graph.node.insert(4, node("Add", ["f", name], ["moved"]))
    proto.graph.initializer.append(stored(name, np.float32(3)))
    feeds = {"x": np.random.default_rng(0).integers(-20, 21, (1, 4, 6, 6)).astype(np.float32)}
    model = imported(proto)
    assert "Clip" in operators(model)
    np.testing.assert_array_equal(run(model.proto, feeds)[0], run(proto.SerializeToString(), feeds)[0])


@pytest.mark.parametrize(
    ("between", "left"),
    [
        ([], []),
        ([node("MaxPool", ["q"], ["r"], kernel_shape=[2, 2])], ["MaxPool"]),
        ([node("Transpose", ["q"], ["r"], perm=[0, 1, 3, 2])], ["Transpose"]),
        ([node("Transpose", ["q"], ["s"], perm=[0, 2, 3, 1]), node("Transpose", ["s"], ["r"], perm=[0, 3, 1, 2])], []),
    ],
    ids=["nothing", "MaxPool", "Transpose", "two"],
)
@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 100), (np.int8, -3)])
def test_what_moves_bytes_moves_floats(between: list[onnx.NodeProto], left: list[str], kind: type, zero: int) -> None:
    proto = by_hand(*between, kind=kind, zero=zero)
    model = imported(proto)
    assert operators(model) == [*left, "Conv"]
    low, high = np.iinfo(kind).min - zero, np.iinfo(kind).max - zero
    assert model.ranges[read_by_layers(model)["conv"]] == (low, high)
    feeds = {"x": np.random.default_rng(0).integers(-20, 21, (1, 4, 6, 6)).astype(np.float32)}
    np.testing.assert_array_equal(run(model.proto, feeds)[0], run(proto.SerializeToString(), feeds)[0])


def test_a_clip_of_bytes_narrows_the_range() -> None:
    proto = by_hand(node("Clip", ["q", "", "most"], ["r"]), zero=60, scale=0.5)
    proto.graph.initializer.append(stored("most", np.uint8(127)))
    assert imported(proto).ranges["x"] == (-30, 33.5)


def test_constants_come_in_any_form_that_exporters_give_them() -> None:
    proto = by_hand(zero=7)
    constants = {item.name: item for item in proto.graph.initializer if item.name in ("scale", "zero")}
    for item in constants.values():
        proto.graph.initializer.remove(item)
    given = numpy_helper.from_array(np.array(7, np.int64))
    forms = [
        helper.make_node("Constant", [], ["as_int"], value=given),
        helper.make_node("Cast", ["as_int"], ["cast"], to=TensorProto.UINT8),
        helper.make_node("Identity", ["cast"], ["zero"]),
        helper.make_node("Constant", [], ["scale"], value=constants["scale"]),
    ]
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*forms, *kept])
    assert imported(proto).ranges == {"x": (-7, 248)}


def test_a_zero_that_is_not_given_is_0_and_bytes_are_then_unsigned() -> None:
    proto = by_hand(scale=0.25)
    for name in ("begin", "end"):
        del named(proto, name).input[2:]
    assert imported(proto).ranges == {"x": (0, 63.75)}


def test_one_scale_is_a_number_or_an_array_of_one() -> None:
    proto = by_hand(zero=5)
    proto.graph.initializer.append(stored("again", np.float32([1])))
    named(proto, "end").input[1] = "again"
    assert imported(proto).ranges == {"x": (-5, 250)}


def test_pairs_of_several_readers_give_the_wider_range() -> None:
    proto = by_hand(zero=128)
    proto.graph.node.extend(
        [
            node("QuantizeLinear", ["x", "w_scale", "zero"], ["q2"]),
            node("DequantizeLinear", ["q2", "w_scale", "zero"], ["f2"]),
            node("Conv", ["f2", "w2"], ["z"], name="other"),
        ]
    )
    proto.graph.initializer.append(stored("w2", np.ones((4, 4, 1, 1), np.float32)))
    proto.graph.output.append(value("z", None))
    model = imported(proto)
    assert read_by_layers(model) == {"conv": "x", "other": "x"}
    assert model.ranges["x"] == (-128, 127)


def test_channels_may_have_scales_of_their_own() -> None:
    proto = replaced(by_hand(), scale=np.float32([1, 2, 4, 3]), zero=np.uint8([100, 100, 90, 0]))
    assert imported(proto).ranges["x"] == (-360, 765)
    for name in ("begin", "end"):
        named(proto, name).attribute.append(helper.make_attribute("axis", 2))
    with pytest.raises(ModelError, match=r"node 'begin' \(QuantizeLinear\): 4 scales do not fit axis 2"):
        imported(proto)


def test_ranges_reach_products_that_folding_reshapes() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("Add", ["a", "b1"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "w2"], ["d"], name="second"),
        node("Add", ["d", "b1"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = [stored(name, rng.standard_normal((12, 12)).astype(np.float32)) for name in ("w1", "w2")]
    weights.append(stored("b1", np.ones(12, np.float32)))
    shape = (1, 5, 12)
    proto = quantised(model_proto(nodes, [value("x", shape)], weights=weights), samples(shape=shape))
    model = imported(proto)
    assert [layer.name for layer in model.layers] == ["first", "second"]
    assert all(tensor in model.ranges for tensor in read_by_layers(model).values())


@pytest.mark.parametrize("kept", ["Relu", "Sigmoid"])
def test_nothing_is_put_where_no_value_is_negative_and_ranges_are_of_what_is_left(kept: str) -> None:
    proto = by_hand()
    named(proto, "begin").input[0] = "dropped"
    proto.graph.node.insert(0, node("Dropout", ["kept"], ["dropped"]))
    proto.graph.node.insert(0, node(kept, ["x"], ["kept"]))
    model = imported(proto)
    assert operators(model) == [kept, "Conv"]
    assert model.ranges == {"kept": (0, 255)}


def test_the_ranges_are_part_of_the_model() -> None:
    one, other = imported(by_hand(zero=3, scale=0.5)), imported(by_hand(zero=3, scale=0.25))
    assert one.digest != other.digest
    assert one.weight("conv").tolist() == other.weight("conv").tolist()
    assert pickle.loads(pickle.dumps(one)).ranges == one.ranges == {"x": (-1.5, 126.0)}
    assert pruned_model(one, {"conv": np.zeros((4, 4, 1, 1), np.float32)}).ranges == one.ranges
    plain = model_proto([node("Relu", ["x"], ["y"])], [value("x", [1, 4])])
    helper.set_model_props(plain, {"range of x": "0.0 1.0"})  # what a file says in our words counts for nothing
    assert imported(plain).ranges == {}


@given(
    coded=arrays(np.int8, (3, 8)) | arrays(np.uint8, (3, 8)),
    zero=st.integers(0, 127),
    scale=st.floats(2**-20, 1024, width=32),
)
def test_rounding_anew_moves_weights_by_half_a_step_of_as_many(coded: np.ndarray, zero: int, scale: float) -> None:
    """Signed bytes move by half an old step (but for -128, by a hair more), others by what their largest takes."""
    away = coded.astype(np.int32) - zero
    weight = away.astype(np.float32) * np.float32(scale)
    largest = np.abs(away).max(axis=1, keepdims=True)
    bound = 0.5 * scale * largest / 127
    assert (np.abs(rounded(weight) - weight) <= bound * (1 + 1e-4)).all()
    same = largest[:, 0] == 127
    np.testing.assert_array_equal(weight_bytes(weight)[0][same], away[same])


def without(name: str) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        proto = by_hand()
        proto.graph.initializer.remove(next(item for item in proto.graph.initializer if item.name == name))
        return proto

    return make


def reading_graph_bytes() -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", ["x", "scale"], ["y"], name="end")]
    return model_proto(nodes, [value("x", [1, 4], TensorProto.UINT8)], weights=[stored("scale", np.float32(1))])


def giving_bytes() -> onnx.ModelProto:
    nodes = [node("QuantizeLinear", ["x", "scale"], ["y"], name="begin")]
    outputs = [value("y", [1, 4], TensorProto.UINT8)]
    return model_proto(nodes, [value("x", [1, 4])], outputs, [stored("scale", np.float32(1))])


def scaled_by_input() -> onnx.ModelProto:
    proto = without("scale")()
    proto.graph.node.insert(0, node("ReduceMax", ["x"], ["scale"], keepdims=0))
    return proto


def of_other_scale() -> onnx.ModelProto:
    proto = by_hand()
    named(proto, "end").input[1] = "w_scale"
    return proto


def adding_bytes() -> onnx.ModelProto:
    proto = by_hand(node("Concat", ["q", "q"], ["r"], axis=1, name="between"))
    return replaced(proto, w=np.ones((4, 8, 1, 1), np.int8))


def in_a_branch() -> onnx.ModelProto:
    inner = helper.make_graph(
        [node("QuantizeLinear", ["x", "scale"], ["q"]), node("DequantizeLinear", ["q", "scale"], ["inner"])],
        "branch", [], [value("inner", [1, 4])],
    )  # fmt: skip
    nodes = [node("If", ["which"], ["y"], name="if", then_branch=inner, else_branch=inner)]
    inputs = [value("x", [1, 4]), value("which", [], TensorProto.BOOL)]
    return model_proto(nodes, inputs, weights=[stored("scale", np.float32(1))])


def of_sixteen_bits() -> onnx.ModelProto:
    proto = by_hand(kind=np.uint16)
    proto.opset_import[0].version = 21
    proto.ir_version = 10
    return proto


def of_other_weights(kind: int) -> onnx.ModelProto:
    proto = by_hand()
    proto.opset_import[0].version = 21
    proto.ir_version = 10
    item = next(each for each in proto.graph.initializer if each.name == "w")
    item.CopyFrom(helper.make_tensor("w", kind, [4, 4, 1, 1], np.ones(16)))
    return proto


def by_random_numbers() -> onnx.ModelProto:
    proto = by_hand()
    proto.graph.node.insert(0, node("RandomUniformLike", ["w_scale"], ["random"]))
    proto.graph.node.extend(
        [
            node("QuantizeLinear", ["random", "scale", "zero"], ["rq"], name="drawn"),
            node("DequantizeLinear", ["rq", "scale", "zero"], ["z"]),
        ]
    )
    proto.graph.output.append(value("z", None))
    return proto


def clipped(*bounds: np.ndarray) -> onnx.ModelProto:
    proto = by_hand(node("Clip", ["q", "least", "most"], ["r"], name="clip"))
    proto.graph.initializer.extend(stored(*each) for each in zip(("least", "most"), bounds, strict=True))
    return proto


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (without("scale"), "'scale'"),
        (without("w"), "'w'"),
        (reading_graph_bytes, r"node 'end' \(DequantizeLinear\): no QuantizeLinear makes the bytes that it reads"),
        (giving_bytes, "output 'y' of the model is bytes: export it in QDQ format"),
        (scaled_by_input, "'scale', its scale, zero or bound, is no constant"),
        (of_other_scale, "node 'end' .*: it reads bytes by another scale than they were made by"),
        (adding_bytes, r"node 'between' \(Concat\): it computes with bytes"),
        (in_a_branch, "node 'if' .*: it has bytes inside its branches"),
        (of_sixteen_bits, "node 'begin' .*: it is of uint16, and not of uint8 or int8"),
        (lambda: of_other_weights(TensorProto.INT4), "'weight' .*: it is of int4, and not of uint8 or int8 or int32"),
        (lambda: of_other_weights(TensorProto.FLOAT8E4M3FN), "node 'weight' .*: it is of float8e4m3fn"),
        (by_random_numbers, "node 'drawn' .*: what it reads depends on no input, and yet is no constant"),
        (lambda: clipped(np.uint8(9), np.uint8(9)), "node 'clip' .*: it leaves no bytes between 9 and 9"),
        (lambda: clipped(np.uint8([1, 2]), np.uint8(9)), "its bounds must be whole numbers|fit together"),
        (lambda: replaced(by_hand(), zero=np.uint8([1, 2])), "1 scales and 2 zeros"),
        (lambda: replaced(by_hand(), zero=np.int32(-5)), "types do not fit together|one of its bytes"),
        (lambda: replaced(by_hand(), scale=np.float32([]), zero=np.uint8([])), "a scale must be a number above 0"),
        (lambda: replaced(by_hand(), w_scale=np.ones(5, np.float32)), "."),
        (lambda: replaced(by_hand(), scale=np.ones((1, 4), np.float32)), "."),
    ],
)  # fmt: skip
def test_what_is_no_sound_qdq_graph_is_one_clear_error(make: Callable[[], onnx.ModelProto], said: str) -> None:
    with pytest.raises(ModelError, match=f"^quantised: .*({said})") as caught:
        imported(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("which", ["scale", "w_scale"])
def test_scales_that_are_none_are_refused(scale: float, which: str) -> None:
    with pytest.raises(ModelError, match="a scale must be a number above 0"):
        imported(replaced(by_hand(), **{which: np.float32(scale)}))


NUMBERS = st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64])


@given(st.data())
def test_hostile_files_are_read_or_refused(data: st.DataObject) -> None:
    proto = by_hand()
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    for name in data.draw(st.sets(st.sampled_from(["scale", "zero", "w", "w_scale"]))):
        kind = data.draw(NUMBERS)
        replaced(proto, **{name: data.draw(arrays(kind, data.draw(shapes)))})
    for name in data.draw(st.sets(st.sampled_from(["begin", "end", "weight"]))):
        own = named(proto, name)
        for attribute in ("axis", "block_size"):
            own.attribute.append(helper.make_attribute(attribute, data.draw(st.integers(-5, 5))))
    proto.opset_import[0].version = data.draw(st.sampled_from([11, 13, 19, 21]))
    proto.ir_version = 10
    try:
        model = imported(proto)
    except ModelError:
        return
    assert all(np.isfinite(ends).all() and ends[0] <= 0 <= ends[1] for ends in model.ranges.values())
    assert np.isfinite(model.constant("w_float")).all()


def test_other_formats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    operator_format = quantised(pictures(), samples(), quant_format=QuantFormat.QOperator)
    onnx.save(pictures(), tmp_path / "float.onnx")
    quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "dynamic.onnx", op_types_to_quantize=["Conv", "MatMul", "Gemm"]
    )
    said = "the model is quantised, and this operator computes with its bytes: export it in QDQ format"
    for proto in (operator_format, onnx.load(tmp_path / "dynamic.onnx")):
        with pytest.raises(ModelError, match=said):
            imported(proto)


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("", "QLinearMatMul"), ("", "MatMulInteger"), ("", "ConvInteger"), ("", "DynamicQuantizeLinear"),
        ("com.microsoft", "QGemm"), ("com.microsoft", "QAttention"), ("com.microsoft", "DequantizeLinear"),
        ("com.microsoft", "MatMulNBits"), ("com.microsoft", "DynamicQuantizeMatMul"),
    ],
)  # fmt: skip
def test_operators_on_bytes_are_told_from_others(domain: str, operator: str) -> None:
    nodes = [node(operator, ["x"], ["y"], domain=domain)]
    with pytest.raises(ModelError, match="the model is quantised"):
        imported(model_proto(nodes, [value("x", [1])], domains=["com.microsoft"]))
    other = model_proto([node("QuickGelu", ["x"], ["y"], domain="com.microsoft")], [value("x", [1])])
    with pytest.raises(ModelError, match=r"operator com\.microsoft\.QuickGelu is not a standard ONNX operator"):
        imported(other)
