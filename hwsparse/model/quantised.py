"""A network that is quantised already becomes the float network that its bytes stand for, with the ranges it states.

A QDQ graph says what is bytes by pairs of nodes, QuantizeLinear and DequantizeLinear, around what layers read, and by
a DequantizeLinear behind the stored bytes of a weight. Pairs are taken out, and what tensors lie between, by their
scales, is kept: what is left is the same network without its rounding. Nodes of constants stay for folding to compute.

Quantisers leave a ReLU, or a clip from 0, to the bytes, which end there: where a pair's range begins at 0, a clip to
the range takes its place, unless no value can be negative. Saturation at other ends is part of the rounding.

Knows nothing of layers, nor of what ranges are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwsparse.errors import ModelError, one_line
from hwsparse.model.names import free_name, names_in
from hwsparse.model.read import INSTEAD_OF_BYTES, QDQ, describe, nodes, not_qdq
from hwsparse.model.shapes import static_shape, with_shapes

Range = tuple[float, float]

_ENDS: dict[int, tuple[int, int]] = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}
_STORED: dict[int, tuple[int, int]] = {**_ENDS, TensorProto.INT32: (-(2**31), 2**31 - 1)}
# What hands on values of its first input, each as it was.
_MOVES = frozenset(
    ("Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
# What a canonical graph calls the range of a tensor, before its name.
_STATED = "range of "
# So many nodes that exporters put behind a constant are looked through.
_LONGEST = 8
_NEVER_NEGATIVE = frozenset(("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"))
# What is never negative where no value that it reads is.
_KEEPS_SIGN = frozenset(("Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul"))


def take_out_pairs(proto: onnx.ModelProto) -> dict[str, Range]:
    """Takes the pairs around computed tensors out of a checked graph with static inputs, in place.

    Returns:
        What they say that tensors lie between, by name: of all tensors that hold the same values.

    Raises:
        ModelError: bytes are computed with, read or given in another way than by such pairs, or are not of 8 bits;
            or a scale or zero is none.
    """
    if not any(node.op_type in QDQ for node in nodes(proto.graph)):
        return {}
    graph = _Graph(proto)
    for node in proto.graph.node:
        graph.take(node)
    for output in proto.graph.output:
        if output.name in graph.coded:
            raise ModelError(f"output {output.name!r} of the model is bytes: {INSTEAD_OF_BYTES}")
    return graph.ranges


def state_ranges(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
    """Writes down, in a canonical graph, the ranges of tensors that it has, and of what only moves their values.

    Raises:
        ModelError: a QuantizeLinear or DequantizeLinear of constants was not folded.
    """
    found = {item.name: ranges[item.name] for item in proto.graph.input if item.name in ranges}
    for node in proto.graph.node:
        if node.op_type in QDQ:
            raise not_qdq(node, "what it reads depends on no input, and yet is no constant")
        if node.op_type in _MOVES and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        found |= {name: ranges[name] for name in node.output if name in ranges}
    helper.set_model_props(proto, {_STATED + name: f"{low!r} {high!r}" for name, (low, high) in found.items()})


def stated_ranges(proto: onnx.ModelProto) -> dict[str, Range]:
    """What `state_ranges` wrote down."""
    found = {}
    for item in proto.metadata_props:
        low, high = map(float, item.value.split())
        found[item.key.removeprefix(_STATED)] = low, high
    return found


@dataclass(frozen=True, slots=True)
class _Coding:
    """What integers from `low` to `high` stand for: scale * (integer - zero)."""

    kind: int
    scales: np.ndarray  # one, or one for each index of an axis
    zeros: np.ndarray
    low: int
    high: int

    @property
    def range(self) -> Range:
        scales = self.scales.astype(np.float64)
        return float((scales * (self.low - self.zeros)).min()), float((scales * (self.high - self.zeros)).max())

    def is_like(self, other: _Coding) -> bool:
        pairs = ((self.scales, other.scales), (self.zeros, other.zeros))
        return self.kind == other.kind and all(np.array_equal(one.ravel(), another.ravel()) for one, another in pairs)


class _Graph:
    """What is known of a graph's tensors so far; nodes are taken in the order of the graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        known = with_shapes(proto).graph
        items = (*known.input, *known.value_info, *known.output)
        self._shapes = {item.name: static_shape(item) for item in items}
        self._kinds = {item.name: item.type.tensor_type.elem_type for item in items}
        self._kinds |= {item.name: item.data_type for item in proto.graph.initializer}
        self._graph, self._names = proto.graph, names_in(proto.graph)
        self._stored = {item.name: item for item in proto.graph.initializer}
        self._makers = {name: node for node in proto.graph.node for name in node.output}
        self._constant = set(self._stored)
        # What no activation can have been left out behind: inputs, and what is never negative.
        self._complete = {item.name for item in proto.graph.input}
        self._first: dict[str, str] = {}  # of the tensors with the same values the first, by the name of each
        self._ranges: dict[str, Range] = {}  # by the first
        self.coded: dict[str, _Coding] = {}

    def take(self, node: onnx.NodeProto) -> None:
        """Makes a node one of floats."""
        reads = list(filter(None, node.input))
        inner = [item for each in node.attribute for graph in (each.g, *each.graphs) for item in nodes(graph)]
        if any(item.op_type in QDQ for item in inner):
            raise not_qdq(node, "it has bytes inside its branches")
        is_constant = node.op_type == "Constant" or (reads and self._constant.issuperset(reads) and not inner)
        if is_constant:
            self._constant.update(node.output)
            if node.op_type in QDQ:
                self._coding(node, _STORED)
        elif node.op_type == "QuantizeLinear":
            self._begin(node)
        elif node.op_type == "DequantizeLinear":
            self._end(node)
        elif node.op_type in (*_MOVES, "Clip") and node.input[0] in self.coded:
            self._hand_on(node)
        elif not self.coded.keys().isdisjoint((*reads, *(name for item in inner for name in item.input))):
            raise not_qdq(node, "it computes with bytes")
        elif node.op_type in ("Identity", "Dropout"):  # folding takes them away
            self._join(node)
        elif node.op_type in _NEVER_NEGATIVE or (
            self._complete.issuperset(reads if node.op_type in _KEEPS_SIGN else node.input[:1])
            and node.op_type in (*_KEEPS_SIGN, *_MOVES)
        ):
            self._complete.update(node.output)

    @property
    def ranges(self) -> dict[str, Range]:
        """By the name of every tensor that holds what a range is of."""
        return {name: self._ranges[first] for name, first in self._first.items() if first in self._ranges}

    def _begin(self, node: onnx.NodeProto) -> None:
        coding = self._coding(node, _ENDS)
        self._check_axis(node, coding.scales)
        self.coded[node.output[0]] = coding
        self._pass_on(node)

    def _hand_on(self, node: onnx.NodeProto) -> None:
        coding = self.coded[node.input[0]]
        if node.op_type == "Clip":
            coding = self._clipped(node, coding)
            self._pass_on(node)
        self.coded[node.output[0]] = coding
        self._join(node)

    def _end(self, node: onnx.NodeProto) -> None:
        coding = self.coded.get(node.input[0])
        if coding is None:
            raise not_qdq(node, "no QuantizeLinear makes the bytes that it reads")
        if not self._coding(node, _ENDS).is_like(coding):
            raise not_qdq(node, "it reads bytes by another scale than they were made by")
        low, high = coding.range
        if low == 0 and node.input[0] not in self._complete:
            self._clip(node, high)
        else:
            self._pass_on(node)
        first = self._first[node.output[0]]
        own = self._ranges.get(first, (low, high))
        self._ranges[first] = min(low, own[0]), max(high, own[1])

    def _join(self, node: onnx.NodeProto) -> None:
        """Takes down that a node's output holds the values that its input does."""
        self._first[node.output[0]] = self._first.setdefault(node.input[0], node.input[0])
        if node.input[0] in self._complete:
            self._complete.add(node.output[0])

    def _pass_on(self, node: onnx.NodeProto) -> None:
        """Has a node give what it reads; folding then takes it away."""
        self._join(node)
        node.op_type, node.domain = "Identity", ""
        del node.input[1:], node.attribute[:]

    def _clip(self, node: onnx.NodeProto, high: float) -> None:
        ends = {"low": 0.0, "high": high}
        bounds = {free_name(f"{node.output[0]}/{end}", self._names): value for end, value in ends.items()}
        self._graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.float32), name) for name, value in bounds.items()
        )
        self._complete.add(node.output[0])
        self._first[node.output[0]] = node.output[0]
        node.op_type, node.domain = "Clip", ""
        node.input[1:] = bounds
        del node.attribute[:]

    def _clipped(self, node: onnx.NodeProto, coding: _Coding) -> _Coding:
        """What is left of a coding after a clip of its bytes, as of a quantiser that uses seven bits of eight."""
        ends = [coding.low, coding.high]
        for place, name in enumerate(node.input[1:]):
            if name:
                bound = self._number(node, name)
                if bound.size != 1 or not np.issubdtype(bound.dtype, np.integer):
                    raise ModelError(f"{describe(node)}: its bounds must be whole numbers, one each")
                ends[place] = sorted((coding.low, int(bound.reshape(())), coding.high))[1]
        if not ends[0] < ends[1]:
            raise ModelError(f"{describe(node)}: it leaves no bytes between {ends[0]} and {ends[1]}")
        return replace(coding, low=ends[0], high=ends[1])

    def _coding(self, node: onnx.NodeProto, kinds: Mapping[int, tuple[int, int]]) -> _Coding:
        """What a node of a pair says that bytes stand for.

        Raises:
            ModelError: they are not of these kinds, or scale or zero are none, or not of the tensor's shape.
        """
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        kind = self._kinds.get(name, TensorProto.UNDEFINED)
        if kind not in kinds:
            given, *known = (TensorProto.DataType.Name(each).lower() for each in (kind, *kinds))
            raise not_qdq(node, f"it is of {given}, and not of {' or '.join(known)}")
        scales = self._number(node, node.input[1])
        if scales.dtype != np.float32:
            raise not_qdq(node, f"its scale is of {scales.dtype}, and not of float32")
        zeros = self._number(node, node.input[2]) if "".join(node.input[2:]) else np.zeros(scales.shape, np.int64)
        if zeros.size != scales.size:
            raise ModelError(f"{describe(node)}: {scales.size} scales and {zeros.size} zeros: it takes as many")
        low, high = kinds[kind]
        with np.errstate(over="ignore"):
            largest = scales * np.float32(high - low)
        if not scales.size or not (np.isfinite(largest) & (scales > 0)).all():
            raise ModelError(
                f"{describe(node)}: a scale must be a number above 0, and so small that values are numbers"
            )
        if not ((zeros >= low) & (zeros <= high)).all():
            raise ModelError(f"{describe(node)}: its zero must be one of its bytes, from {low} to {high}")
        return _Coding(kind, scales, zeros.reshape(scales.shape).astype(np.int64), low, high)

    def _check_axis(self, node: onnx.NodeProto, scales: np.ndarray) -> None:
        """Refuses scales of a computed tensor that do not fit its shape, and such as are of blocks of it."""
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        shape = self._shapes.get(node.input[0])
        fits = shape is None or (-len(shape) <= axis < len(shape) and shape[axis] == scales.size)
        if scales.size > 1 and (scales.ndim > 1 or not fits):
            raise not_qdq(node, f"{scales.size} scales do not fit axis {axis} of a tensor {shape}")

    def _number(self, node: onnx.NodeProto, name: str) -> np.ndarray:
        """A constant that a node reads, through what exporters put between.

        Raises:
            ModelError: it is none.
        """
        casts, maker = [], self._makers.get(name)
        for _ in range(_LONGEST):
            if maker is None or maker.op_type not in ("Cast", "Identity"):
                break
            casts += [item.i for item in maker.attribute if item.name == "to"]
            name = maker.input[0]
            maker = self._makers.get(name)
        stored = self._stored.get(name)
        if maker is not None and maker.op_type == "Constant":
            stored = next((item.t for item in maker.attribute if item.name == "value"), None)
        if stored is None:
            raise not_qdq(node, f"{name!r}, its scale, zero or bound, is no constant")
        try:
            value = numpy_helper.to_array(stored)
            for kind in reversed(casts):
                with np.errstate(invalid="ignore"):
                    value = value.astype(helper.tensor_dtype_to_np_dtype(kind))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{describe(node)}: {name!r} cannot be read: {one_line(error)}") from None
        return value
