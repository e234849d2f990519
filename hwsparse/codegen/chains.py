"""Finds, in an imported Relax function, each layer's product and what its kernel can take over.

After a product a kernel may add a bias, then a residual tensor, then clip; a chain is the longest such
run in which every intermediate has one user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst

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
    low: float = -math.inf
    high: float = math.inf


def find_chains(main: relax.Function, layers: Mapping[str, Layer]) -> list[Chain]:
    """The chains of the layers whose weight parameters `layers` names, in the function's order."""
    values = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
    users: dict[Any, list[Any]] = {}
    for var, value in values.items():
        for argument in _arguments(value):
            users.setdefault(argument, []).append(var)
    users.setdefault(main.body.body, []).append(main)
    chains: list[Chain] = []
    taken: set[Any] = set()
    # Of two products that are added the later one takes the sum over: the other is there by then.
    for var, value in reversed(values.items()):
        layer = _layer(value, values, layers)
        if layer is not None:
            chain = Chain(layer, value.args[0], [var])
            _extend(chain, values, users, taken)
            taken.update(chain.variables)
            chains.append(chain)
    return chains[::-1]


def _layer(value: Any, values: Mapping[Any, Any], layers: Mapping[str, Layer]) -> Layer | None:
    """The layer whose product `value` is; its weight may pass through a transposition."""
    if _operator(value) not in PRODUCTS:
        return None
    weight = value.args[1]
    if _operator(values.get(weight)) == "relax.permute_dims":
        weight = values[weight].args[0]
    return layers.get(weight.name) if isinstance(weight, relax.Var) else None


def _extend(chain: Chain, values: Mapping[Any, Any], users: Mapping[Any, list[Any]], taken: set[Any]) -> None:
    """Takes over following operations for as long as each is the only user of what is before it, and not `taken`."""
    depthwise = chain.layer.groups > 1 and chain.layer.groups == chain.layer.input_shape[1]
    clipped = False
    while True:
        last = chain.variables[-1]
        following = users.get(last, [])
        if len(following) != 1 or following[0] not in values or following[0] in taken:
            return
        value = values[following[0]]
        operator = _operator(value)
        if operator == "relax.add" and not clipped:
            other = value.args[1] if value.args[0].same_as(last) else value.args[0]
            bias = _bias(other, values, chain.layer)
            if bias is not None and chain.residual is None:
                chain.bias = bias if chain.bias is None else chain.bias + bias
            elif chain.residual is None and not depthwise and _shape(other) == chain.layer.output_shape:
                chain.residual = other
            else:
                return
        elif (bounds := _clip(value, operator)) is not None:
            # max(min(x, high), low), which is how a later clip composes with an earlier one.
            chain.low = min(max(chain.low, bounds[0]), bounds[1])
            chain.high = max(min(chain.high, bounds[1]), bounds[0])
            clipped = True
        else:
            return
        chain.variables.append(following[0])


def _clip(value: Any, operator: str) -> tuple[float, float] | None:
    """The bounds of a clip by constants, in any of the forms that the importer gives it."""
    if operator == "relax.nn.relu":
        return 0.0, math.inf
    if operator == "relax.nn.relu6":
        return 0.0, 6.0
    if operator == "relax.clip":
        return float(value.args[1].value), float(value.args[2].value)
    if operator in ("relax.maximum", "relax.minimum", "maximum", "minimum"):
        operands = value.args[1] if operator in ("maximum", "minimum") else value.args
        bound = _constant(operands[1])
        if bound is not None and bound.size == 1:
            number = float(bound.reshape(()))
            return (number, math.inf) if operator.endswith("maximum") else (-math.inf, number)
    return None


def _bias(value: Any, values: Mapping[Any, Any], layer: Layer) -> np.ndarray | None:
    """A constant that adds one number per output of the layer, as (outputs,) float32."""
    if _operator(values.get(value)) == "relax.reshape":
        shape = _shape(value)
        constant = _constant(values[value].args[0])
        constant = constant.reshape(shape) if constant is not None and shape is not None else None
    else:
        constant = _constant(value)
    if constant is None:
        return None
    axis = 1 if layer.window else len(layer.output_shape) - 1
    aligned = (1,) * (len(layer.output_shape) - constant.ndim) + constant.shape
    per_output = tuple(layer.outputs if place == axis else 1 for place in range(len(layer.output_shape)))
    if aligned != per_output:
        return None
    return constant.reshape(-1).astype(np.float32)


def _operator(value: Any) -> str:
    """The name of what a binding calls; of a generated function, its name without its number."""
    if not isinstance(value, relax.Call):
        return ""
    if getattr(value.op, "name", "") == "relax.call_tir":
        return str(value.args[0].name_hint).rstrip("0123456789")
    return str(getattr(value.op, "name", ""))


def _arguments(value: Any) -> list[Any]:
    """The variables that a binding's value reads, each as often as it is read."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [var for item in value.fields for var in _arguments(item)]
    if isinstance(value, relax.Call):
        return [var for item in value.args for var in _arguments(item)]
    if isinstance(value, relax.TupleGetItem):
        return _arguments(value.tuple_value)
    return []


def _constant(value: Any) -> np.ndarray | None:
    return value.value.numpy() if isinstance(value, GenericConst) else None


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    return tuple(int(size) for size in shape.values)
