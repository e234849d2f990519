from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwsparse.errors import DataError
from hwsparse.quantise import (
    MOST_FLOAT16,
    MOST_VALUE,
    Scale,
    beyond,
    bfloat16_bits,
    float16_of,
    is_rounded,
    range_name,
    read_name,
    rounded,
    split_weights,
    weight_bytes,
    without_reads,
)

ends = st.floats(-1e30, 1e30)


@given(ends, ends)
def test_bytes_stand_for_all_values_of_a_range_and_exactly_for_zero(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale = Scale.of(low, high)
    values = np.array([low, high, 0.0], np.float32)
    back = scale.scale * (scale.bytes_of(values).astype(np.float64) - scale.zero)
    assert back[2] == 0
    # Half a step, and another half that zero was moved by; less than nothing can stand for is taken for zero.
    np.testing.assert_allclose(back[:2], values[:2], atol=1.001 * scale.scale if scale.scale != 1 else 1e-35)


@given(st.floats(-9, 0), st.floats(0.1, 9), st.integers(0, 99))
def test_bytes_are_those_of_onnxruntime_but_for_rounding(low: float, high: float, seed: int) -> None:
    scale = Scale.of(low, high)
    x = np.random.default_rng(seed).uniform(1.5 * low, 1.5 * high, 100).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "bytes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [100])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [100])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale.scale]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [scale.zero]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    apart = np.abs(scale.bytes_of(x).astype(int) - expected.astype(int))
    halves = np.abs(np.abs(x / scale.scale) % 1 - 0.5) < 1e-4
    assert apart.max() <= 1
    assert not apart[~halves].any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-0.0, 0.0), (0.0, 1e-45)])
def test_where_nothing_but_zeros_was_seen_all_is_zero(low: float, high: float) -> None:
    assert Scale.of(low, high) == Scale(1.0, 0)


@pytest.mark.parametrize(("low", "high"), [(-math.inf, 1), (0, math.nan), (-3e38, 3e38 * 300), (math.nan, 0)])
def test_ranges_without_end_are_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match="bytes cannot stand for values from"):
        Scale.of(low, high)


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 0), (-1.0, 0), (math.inf, 0), (1.0, -1), (1.0, 256)])
def test_scales_that_are_none_are_refused(scale: float, zero: int) -> None:
    with pytest.raises(DataError, match="bytes cannot stand for values by the scale"):
        Scale(scale, zero)


def test_a_range_far_from_zero_still_holds_it() -> None:
    assert Scale.of(5.0, 6.0) == Scale(float(np.float32(6 / MOST_VALUE)), 0)
    assert Scale.of(-6.0, -5.0).zero == MOST_VALUE


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_weights_are_within_half_a_step_and_zeros_stay(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, columns, 2)) * rng.integers(0, 2, (rows, columns, 1))).astype(np.float32)
    signed, scales = weight_bytes(weight)
    assert signed.dtype == np.int8 and signed.shape == weight.shape and signed.min() >= -127
    back = signed * scales[:, None, None].astype(np.float64)
    np.testing.assert_allclose(back, weight, atol=0.5001 * scales.max())
    assert not signed[weight == 0].any()
    again, same = weight_bytes(back.astype(np.float32))
    np.testing.assert_array_equal(again, signed)
    np.testing.assert_allclose(same, scales, rtol=1e-6)


@given(st.integers(1, 9), st.integers(2, 9), st.floats(2**-60, 2**60), st.integers(0, 99))
def test_what_is_rounded_is_told_from_what_is_not(rows: int, columns: int, size: float, seed: int) -> None:
    weight = (size * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)
    assert not is_rounded(weight)
    assert is_rounded(rounded(weight)) and is_rounded(rounded(rounded(weight)))
    assert is_rounded(np.zeros_like(weight))


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1))
def test_bfloat16_are_the_nearest_of_floats(values: list[float]) -> None:
    floats = np.array(values, np.float32)
    near = floats.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded(floats, "bfloat16"), near.astype(np.float32))
    np.testing.assert_array_equal(rounded(rounded(floats, "bfloat16"), "bfloat16"), near.astype(np.float32))


def test_zeros_of_either_sign_are_no_bits_of_bfloat16() -> None:
    assert bfloat16_bits(np.array([0.0, -0.0, -1e-45, 1.0], np.float32)).tolist() == [0, 0, 0, 0x3F80]


@given(st.lists(st.floats(-MOST_FLOAT16, MOST_FLOAT16, width=32), min_size=1))
def test_float16_are_the_nearest_of_floats(values: list[float]) -> None:
    floats = np.array(values, np.float32)
    near = torch.from_numpy(floats).half().float().numpy()
    np.testing.assert_array_equal(rounded(floats, "float16"), near)
    np.testing.assert_array_equal(rounded(rounded(floats, "float16"), "float16"), near)


def test_float16_ends_where_it_does_and_has_one_zero() -> None:
    values = np.array([65519, 1e9, -np.inf, np.nan, -0.0, -(2.0**-25)], np.float32)
    np.testing.assert_array_equal(float16_of(values), np.array([65504, 65504, -65504, np.nan, 0, 0], np.float16))
    assert not np.signbit(float16_of(values)[-2:]).any()


def test_weights_beyond_float16_are_told() -> None:
    weight = np.array([[1.0, -70_000]], np.float32)
    assert beyond(weight, "float16") == "a weight of 70000 lies beyond 65504, the last float16"
    assert beyond(weight, "float32") is beyond(weight, "bfloat16") is beyond(weight / 2, "float16") is None


def test_floats_stay_as_they_are() -> None:
    weight = np.array([[0.1, 3.0]], np.float32)
    assert rounded(weight, "float32") is weight


def test_what_layers_read_is_told_apart_from_weights() -> None:
    weight, ends = np.ones((1, 2), np.float32), np.array([-1, 3], np.float32)
    told = {"a": weight, range_name("x"): ends, read_name("b", "bfloat16"): np.zeros(0, np.float32)}
    told[read_name("c", "float16")] = np.zeros(0, np.float32)
    plain, scales, reads = split_weights(told)
    assert (list(plain), scales, reads) == (["a"], {"x": Scale.of(-1, 3)}, {"b": "bfloat16", "c": "float16"})
    assert list(without_reads(told)) == ["a", range_name("x")]
    assert split_weights(told).rounds and not split_weights({"a": weight}).rounds
