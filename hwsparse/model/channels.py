"""Channels on their way through a graph, and the units that they form.

Channels that meet are united; what is known of them in the end is a number for each unit, wherever one of its channels
is stored or counted. Knows no operators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hwsparse.model.shapes import static_shape
from hwsparse.plan import Layer

STAYS = 0  # the unit of all channels that cannot be removed


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """The units of a model, numbered from 1 to `units`; STAYS is what cannot be removed.

    `stored` tells by node, input and axis the unit of each place of a constant; `counted` by node the units of what
    its attributes or its shape operand count: several lists where they count several things.
    """

    units: int
    stored: Mapping[tuple[str, int, int], np.ndarray]
    counted: Mapping[str, tuple[np.ndarray, ...]]

    def rows(self, layer: Layer) -> np.ndarray:
        """The unit of each output of a layer, (outputs,)."""
        return self.stored.get((layer.name, 1, int(layer.transposed)), np.full(layer.outputs, STAYS))

    def columns(self, layer: Layer) -> np.ndarray:
        """The unit of each input channel of a layer, (in / groups,); convolutions in groups read units of their own."""
        own = np.full(layer.weight_shape[1], STAYS)
        return self.stored.get((layer.name, 1, int(not layer.transposed)), own)


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The axis of a tensor that holds channels, and the identity of each."""

    axis: int
    ids: np.ndarray


# Nothing is handed on, and nothing need stay for it.
NONE = Channels(0, np.empty(0, np.int64))


class Trace:
    """Channels on their way through a graph; identities that were united are the same."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.opset = opset
        items = (*graph.input, *graph.value_info, *graph.output)
        self.shapes = {item.name: static_shape(item) or () for item in items}
        self.constants = {item.name: item for item in graph.initializer}
        self.shapes |= {name: tuple(item.dims) for name, item in self.constants.items()}
        self.channels: dict[str, Channels] = {}
        self._parents = [STAYS]
        self._stored: dict[tuple[str, int, int], np.ndarray] = {}
        self._counted: dict[str, tuple[np.ndarray, ...]] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self._outputs = [item.name for item in graph.output]

    def rank(self, node: onnx.NodeProto) -> int:
        """Of what a node reads first."""
        return len(self.shapes[node.input[0]])

    def new(self, count: int) -> np.ndarray:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes channels one, place by place."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def fix(self, *names: str) -> None:
        """Keeps the channels of tensors."""
        for name in names:
            if name in self.channels:
                self.keep(self.channels[name].ids)

    def keep(self, ids: np.ndarray) -> None:
        self.unite(ids, np.full(ids.shape, STAYS))

    def put(self, node: onnx.NodeProto, axis: int, ids: np.ndarray) -> None:
        for name in node.output:
            self.channels[name] = Channels(axis, ids)

    def cut(self, node: onnx.NodeProto, place: int, axis: int, ids: np.ndarray) -> None:
        """An axis of a constant, an input of the node, holds these channels."""
        self._stored[node.name, place, axis] = ids

    def count(self, node: onnx.NodeProto, *ids: np.ndarray) -> None:
        """A node says how many these are."""
        self._counted[node.name] = ids

    def coupling(self) -> Coupling:
        """Everything united, numbered."""
        self.fix(*self._outputs)
        roots = np.array([self._root(index) for index in range(len(self._parents))])
        made = {root for ids in self._stored.values() for root in roots[ids].tolist()} - {STAYS}
        numbers = np.zeros(len(roots), np.int64)
        numbers[sorted(made)] = np.arange(1, len(made) + 1)
        units = numbers[roots]
        stored = {place: units[ids] for place, ids in self._stored.items()}
        counted = {name: tuple(units[ids] for ids in lists) for name, lists in self._counted.items()}
        return Coupling(
            len(made),
            {place: ids for place, ids in stored.items() if ids.any()},
            {name: lists for name, lists in counted.items() if any(ids.any() for ids in lists)},
        )

    def _root(self, index: int) -> int:
        parents = self._parents
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index
