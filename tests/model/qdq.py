"""Networks quantised by onnxruntime, and small QDQ graphs by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from tests.model.graphs import model_proto, node, stored, value

Feeds = Mapping[str, np.ndarray]
SHAPE = (1, 8, 8, 8)


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Iterable[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(samples)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def quantised(proto: onnx.ModelProto, samples: Iterable[Feeds], **options: object) -> onnx.ModelProto:
    """What onnxruntime makes of a float network; in QDQ format, unless the options say otherwise."""
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "float.onnx", Path(scratch) / "bytes.onnx"
        onnx.save(proto, before)
        quantize_static(before, after, _Samples(samples), **{"quant_format": QuantFormat.QDQ, **options})
        return onnx.load(after)


def without_last_pair(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A file whose output, computed and then rounded, is the former."""
    found = onnx.ModelProto.FromString(proto.SerializeToString())
    (output,), makers = found.graph.output, {node.output[0]: node for node in found.graph.node}
    end = makers[output.name]
    begin = makers[end.input[0]]
    assert (begin.op_type, end.op_type) == ("QuantizeLinear", "DequantizeLinear")
    output.name = begin.input[0]
    for each in (begin, end):
        found.graph.node.remove(each)
    return found


def pictures() -> onnx.ModelProto:
    """Convolutions with a residual, two activations and pooling over `SHAPE`, then a Gemm."""
    nodes = [
        node("Conv", ["x", "w_first", "b_first"], ["a"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w_second"], ["c"], name="second", pads=[1, 1, 1, 1]),
        node("Add", ["c", "b"], ["d"], name="add"),
        node("Relu", ["d"], ["e"], name="relu_of_sum"),
        node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
        node("Conv", ["f", "w_third"], ["g"], name="third"),
        node("Clip", ["g", "0", "6"], ["h"], name="relu6"),
        node("GlobalAveragePool", ["h"], ["i"], name="average"),
        node("Flatten", ["i"], ["j"], name="flatten"),
        node("Gemm", ["j", "w_last", "b_last"], ["y"], name="last", transB=1),
    ]
    sizes = {"w_first": (16, 8, 3, 3), "w_second": (16, 16, 3, 3), "w_third": (32, 16, 1, 1), "w_last": (10, 32)}
    rng = np.random.default_rng(0)
    weights = [
        stored(f"b_{name}", rng.standard_normal(rows).astype(np.float32))
        for name, rows in (("first", 16), ("last", 10))
    ]
    for name, shape in sizes.items():
        # Values stay about as large as they were.
        weights.append(stored(name, (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)))
    bounds = [stored("0", np.float32(0)), stored("6", np.float32(6))]
    return model_proto(nodes, [value("x", SHAPE)], weights=[*weights, *bounds])


def samples(count: int = 4, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]
