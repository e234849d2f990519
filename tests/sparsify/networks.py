"""Small networks, and data for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hwsparse.data import Dataset
from hwsparse.model import Model, import_onnx
from tests.model.graphs import model_proto, node, stored, value, weight

CLASSES = 10


def classifier() -> Model:
    """Convolutions of several kinds over (1, 8, 9, 7), then a Gemm into 10 classes. No layer has a bias."""
    nodes = [
        node("Conv", ["x", "w_first"], ["a"], name="first", pads=[1, 0, 2, 1], strides=[2, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w_grouped"], ["c"], name="grouped", group=4, dilations=[1, 2], pads=[1, 1, 0, 2]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w_depthwise"], ["e"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["e"], ["f"]),
        node("Flatten", ["f"], ["g"]),
        node("Gemm", ["g", "w_last"], ["y"], name="last", transB=1),
    ]
    weights = [
        weight("w_first", 32, 8, 3, 2),
        weight("w_grouped", 16, 8, 2, 2),
        weight("w_depthwise", 16, 1, 3, 3),
        weight("w_last", CLASSES, 16),
    ]
    return _imported(nodes, [value("x", [1, 8, 9, 7])], weights, "classifier")


def embedder() -> Model:
    """Tokens (1, 6) to an embedding of 8, through two products that read the same tensor."""
    nodes = [
        node("Gather", ["table", "ids"], ["h"]),
        node("MatMul", ["h", "w_left"], ["l"], name="left"),
        node("MatMul", ["h", "w_right"], ["r"], name="right"),
        node("Add", ["l", "r"], ["s"]),
        node("ReduceMean", ["s"], ["y"], axes=[1], keepdims=0),
    ]
    weights = [weight("table", 50, 12), weight("w_left", 12, 8), weight("w_right", 12, 8)]
    return _imported(nodes, [value("ids", [1, 6], 7)], weights, "embedder")


def product(matrix: np.ndarray, name: str = "product") -> Model:
    """y = x @ matrix for a row x."""
    nodes = [node("MatMul", ["x", "w"], ["y"], name="only")]
    return _imported(nodes, [value("x", [1, len(matrix)])], [stored("w", matrix)], name)


def images(samples: int = 12, seed: int = 0) -> Dataset:
    """For `classifier`, labels at random."""
    rng = np.random.default_rng(seed)
    # Channels differ in brightness from sample to sample, or averages over positions would hardly differ.
    x = rng.standard_normal((samples, 8, 9, 7)) + 4 * rng.standard_normal((samples, 8, 1, 1))
    return Dataset("images", {"x": x.astype(np.float32)}, np.arange(samples) % CLASSES)


def sentences(pairs: int = 15, seed: int = 0) -> Dataset:
    """For `embedder`, similarities at random."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 50, (2 * pairs, 6))
    return Dataset("sentences", {"ids": ids}, rng.integers(0, 6, pairs) / 5, "spearman")


def _imported(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
    name: str,
) -> Model:
    return import_onnx(model_proto(nodes, inputs, weights=weights).SerializeToString(), name=name)
