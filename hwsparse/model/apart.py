"""A network's graph, and the arrays that make up its size, apart: plan after plan, these change and the graph does not.

To write a network of a hundred megabytes, read it, and do so again for every length of sentence, can take as long as
its answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto

# What matrices are read by, all of them whole; how many values are worth it.
_READERS = frozenset({"Conv", "Gather", "Gemm", "MatMul"})
_LEAST = 256
# Where arrays are said to lie: onnxruntime is given them by name, and opens nothing.
_ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """`graph` is a serialized ONNX ModelProto; `arrays` are float32, contiguous, by the names of its initializers."""

    graph: bytes
    arrays: Mapping[str, np.ndarray]


def take_apart(proto: bytes, stored: Mapping[str, np.ndarray]) -> Apart:
    """Of a serialized ONNX ModelProto the graph, and the matrices among what is `stored` in it."""
    model = onnx.load_from_string(proto)
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    arrays = {}
    for item in model.graph.initializer:
        values = stored[item.name]
        if item.data_type == TensorProto.FLOAT and values.size >= _LEAST and readers[item.name] <= _READERS:
            arrays[item.name] = values
            kept = TensorProto(name=item.name, dims=item.dims, data_type=item.data_type)
            kept.data_location = TensorProto.EXTERNAL
            kept.external_data.add(key="location", value=_ELSEWHERE)
            item.CopyFrom(kept)
    return Apart(bytes(model.SerializeToString(deterministic=True)), MappingProxyType(arrays))
