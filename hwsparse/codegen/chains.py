"""Finds, in an imported Relax function, each layer's product and what its kernel can take over.

After a product a kernel may add a bias, then a residual tensor, then apply an activation, then clip; a chain is
the longest such run in which nothing else uses an intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from hwsparse.codegen.activations import find_activation
from hwsparse.codegen.graph import RESHAPES, Graph, clip_bounds, constant, operator_of, shape_of
from hwsparse.plan import Layer

PRODUCTS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.matmul")


@dataclass(slots=True)
class Chain:
    """One layer in a Relax function.

    `source` is the layer's input, `variables` the chain's variables from the product to the last,
    which the kernel call will define in their stead.
    """

    layer: Layer
    source: Any
    variables: list[Any] = field(default_factory=list)
    bias: np.ndarray | None = None
    residual: Any = None
    function: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def activated(self) -> bool:
        """Whether what follows acts on an activation, after which nothing is added."""
        return bool(self.function) or (self.low, self.high) != (-math.inf, math.inf)

    @property
    def depthwise(self) -> bool:
        return self.layer.groups > 1 and self.layer.groups == self.layer.input_shape[1]


def find_chains(main: relax.Function, layers: Mapping[str, Layer]) -> list[Chain]:
    """The chains of the layers whose weight parameters `layers` names, in the function's order."""
    graph = Graph.of(main)
    chains: list[Chain] = []
    taken: set[Any] = set()
    # Of two products that are added the later one takes the sum over: the other is there by then.
    for var, value in reversed(graph.values.items()):
        layer = _layer(graph, value, layers)
        if layer is not None:
            chain = Chain(layer, value.args[0], [var])
            _extend(chain, graph, taken)
            while graph.operator(chain.variables[-1]) in RESHAPES:  # nothing was to be done to it
                chain.variables.pop()
            taken.update(chain.variables)
            chains.append(chain)
    return chains[::-1]


def _layer(graph: Graph, value: Any, layers: Mapping[str, Layer]) -> Layer | None:
    """The layer whose product `value` is; its weight may pass through a transposition."""
    if operator_of(value) not in PRODUCTS:
        return None
    weight = value.args[1]
    if graph.operator(weight) == "relax.permute_dims":
        weight = graph.arguments(weight)[0]
    return layers.get(weight.name) if isinstance(weight, relax.Var) else None


def _extend(chain: Chain, graph: Graph, taken: set[Any]) -> None:
    """Takes over following operations for as long as each is the only user of what is before it, and not `taken`."""
    while True:
        last = chain.variables[-1]
        found = None if chain.activated else find_activation(graph, last)
        following = graph.only_user(last)
        if found is not None and not taken.intersection(found[1]):
            chain.function, variables = found
            chain.variables.extend(variables)
        elif following is not None and following not in taken and _takes(chain, graph, last, following):
            chain.variables.append(following)
        else:
            return


def _takes(chain: Chain, graph: Graph, last: Any, following: Any) -> bool:
    """Whether the chain's kernel can compute `following`, which alone uses `last`; the chain says how from then on."""
    value, operator, shape = graph.values[following], graph.operator(following), shape_of(last)
    if operator == "relax.add" and not chain.activated:
        other = value.args[1] if value.args[0].same_as(last) else value.args[0]
        bias = _bias(other, graph, chain.layer, shape)
        if bias is not None and chain.residual is None:
            chain.bias = bias if chain.bias is None else chain.bias + bias
            return True
        if chain.residual is None and not chain.depthwise and shape_of(other) == shape:
            chain.residual = other
            return True
        return False
    if (bounds := clip_bounds(value, operator)) is not None:
        # max(min(x, high), low), which is how a later clip composes with an earlier one.
        chain.low = min(max(chain.low, bounds[0]), bounds[1])
        chain.high = max(min(chain.high, bounds[1]), bounds[0])
        return True
    into = shape_of(following)
    if operator not in RESHAPES or shape is None or into is None:
        return False
    # Positions may be counted in another way; the outputs stay where they are.
    return into[:2] == shape[:2] if chain.layer.window is not None else into[-1:] == shape[-1:]


def _bias(value: Any, graph: Graph, layer: Layer, shape: tuple[int, ...] | None) -> np.ndarray | None:
    """A constant that adds one number per output of the layer to its `shape`d result, as (outputs,) float32."""
    if graph.operator(value) == "relax.reshape":
        array, own = constant(graph.arguments(value)[0]), shape_of(value)
        array = array.reshape(own) if array is not None and own is not None else None
    else:
        array = constant(value)
    if array is None or shape is None:
        return None
    axis = 1 if layer.window else len(shape) - 1
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    per_output = tuple(layer.outputs if place == axis else 1 for place in range(len(shape)))
    if aligned != per_output:
        return None
    return array.reshape(-1).astype(np.float32)
