"""Pooling kernels against onnxruntime, over random windows, and in whole models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from hwsparse.codegen import build_model, lowering
from hwsparse.codegen.cpu.pooling import Axis, Pooling, pool
from hwsparse.model import import_onnx
from hwsparse.plan import Plan
from tests.codegen.compiling import run_kernel
from tests.codegen.layers import CPU


@st.composite
def axes(draw: st.DrawFn, ceil: bool) -> Axis:
    kernel, stride, dilation = (draw(st.integers(1, most)) for most in (4, 4, 2))
    before, after = (draw(st.integers(0, kernel - 1)) for _ in range(2))
    size = draw(st.integers((kernel - 1) * dilation + 1, 24) | st.integers(60, 150))
    return Axis(size, kernel, stride, dilation, before, after, ceil)


@st.composite
def poolings(draw: st.DrawFn) -> Pooling:
    ceil = draw(st.booleans())
    rows = draw(st.none() | axes(ceil))
    planes = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    return Pooling(planes, rows, draw(axes(ceil)), draw(st.booleans()), draw(st.booleans()))


def model_of(pooling: Pooling) -> ModelProto:
    used = [axis for axis in (pooling.rows, pooling.columns) if axis is not None]
    attributes = {
        "kernel_shape": [axis.kernel for axis in used],
        "strides": [axis.stride for axis in used],
        "dilations": [axis.dilation for axis in used],
        "pads": [axis.before for axis in used] + [axis.after for axis in used],
        "ceil_mode": int(used[0].ceil),
    }
    operator = "MaxPool" if pooling.greatest else "AveragePool"
    if not pooling.greatest:
        attributes["count_include_pad"] = int(pooling.padding_counts)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, pooling.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, pooling.output_shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def answer(proto: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@settings(max_examples=50, deadline=None)
@given(poolings(), st.sampled_from((4, 8, 16)), st.integers(1, 3))
def test_the_kernel(pooling: Pooling, lanes: int, threads: int) -> None:
    assume(all(axis.covered for axis in (pooling.rows, pooling.columns) if axis is not None))
    x = np.random.default_rng(0).standard_normal(pooling.input_shape).astype(np.float32)
    value = run_kernel(pool(pooling, lanes, threads), pooling.output_shape, x)
    np.testing.assert_allclose(value, answer(model_of(pooling), x), atol=1e-5)


SQUARE = Axis(15, 3, 2, 1, 1, 1, False)


@pytest.mark.parametrize("greatest", [True, False])
@pytest.mark.parametrize("rows", [SQUARE, None])
def test_models_pool_by_the_kernel(
    greatest: bool, rows: Axis | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooling, found = Pooling((2, 5), rows, SQUARE, greatest, False), []
    original = lowering.operation_of
    monkeypatch.setattr(lowering, "operation_of", lambda *call: found.append(original(*call)) or found[-1])
    proto = model_of(pooling)
    model = import_onnx(proto.SerializeToString(), name="pooling")
    x = np.random.default_rng(0).standard_normal(pooling.input_shape).astype(np.float32)
    library = build_model(model, Plan(model.digest), {}, CPU, tmp_path)
    assert [operation.name for operation in found if operation is not None] == ["pool"]
    np.testing.assert_allclose(library.run({"x": x})["y"], answer(proto, x), atol=1e-5)
