"""A network over fewer tokens than its file says it takes.

Sentences are padded to as many, and most of the work is then on padding. Whether the answers are the same without it is
the network's affair, and for who asks it to see.
"""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import TensorProto, numpy_helper

_SHAPED = ("Reshape", "Expand")  # by their second input
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Where")


def shortened(proto: bytes, made_for: int, tokens: int) -> bytes:
    """A canonical network over its first `tokens` of the `made_for` that it takes, as far as its graph tells.

    Cut are the inputs (1, made_for), constants of so many rows or columns that are added to tokens or multiplied with
    them, as what tells their places, and shapes where they speak of so many.
    """
    model = onnx.load_from_string(proto)
    graph = model.graph
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers[name].add(f"{node.op_type}.{place}" if node.op_type in _SHAPED else node.op_type)
    for item in graph.input:
        dims = item.type.tensor_type.shape.dim
        if len(dims) == 2 and dims[1].dim_value == made_for:
            dims[1].dim_value = tokens
    for constant in graph.initializer:
        if constant.data_location == TensorProto.EXTERNAL:  # a matrix, which nothing of this is
            continue
        values = numpy_helper.to_array(constant)
        if readers[constant.name] <= {f"{kind}.1" for kind in _SHAPED}:
            values = values.copy()
            values[values == made_for] = tokens
        elif values.ndim > 1 and made_for in values.shape and readers[constant.name] <= set(_ELEMENTWISE):
            values = values[tuple(slice(tokens if size == made_for else None) for size in values.shape)]
        else:
            continue
        constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString(deterministic=True))
