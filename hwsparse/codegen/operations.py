"""Kernels for single Relax operations on activations, and vectorised forms of elementwise functions.

Knows nothing of layers, plans or ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx, topi

from hwsparse.codegen.cpu import vector_math
from hwsparse.codegen.cpu.matmul import matmul
from hwsparse.codegen.cpu.normalise import greatest, layer_norm, softmax
from hwsparse.codegen.graph import operator_of, shape_of
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Operation:
    """A kernel that computes one call: its function, name, inputs and the output's shape."""

    function: tirx.PrimFunc
    name: str
    inputs: tuple[Any, ...]
    out_shape: tuple[int, ...]


def operation_of(call: Any, target: Target) -> Operation | None:
    """The kernel for a call, if there is one for its operator, shapes and attributes."""
    make = _OPERATIONS.get(operator_of(call))
    return make(call, target) if make is not None else None


def _matmul(call: Any, target: Target) -> Operation | None:
    left, right = (_float_shape(operand) for operand in call.args)
    if left is None or right is None or len(left) < 2 or left[:-2] != right[:-2]:
        return None
    function = matmul(left, right, target.vector_bits // 32, target.vector_registers, target.threads)
    return Operation(function, "matmul", tuple(call.args), (*left[:-1], right[-1]))


def _softmax(call: Any, target: Target) -> Operation | None:
    shape = _float_shape(call.args[0])
    if not shape or call.attrs.axis not in (-1, len(shape) - 1):
        return None
    function = softmax(shape, target.vector_bits // 32, target.threads)
    return Operation(function, "softmax", tuple(call.args), shape)


def _layer_norm(call: Any, target: Target) -> Operation | None:
    shape, attrs = _float_shape(call.args[0]), call.attrs
    if not shape or not (attrs.center and attrs.scale):
        return None
    if [int(axis) % len(shape) for axis in attrs.axes] != [len(shape) - 1]:
        return None
    if any(_float_shape(operand) != shape[-1:] for operand in call.args[1:]):
        return None
    function = layer_norm(shape, float(attrs.epsilon), target.vector_bits // 32, target.threads)
    return Operation(function, "layer_norm", tuple(call.args), shape)


def _greatest(call: Any, target: Target) -> Operation | None:
    shape, axis = _float_shape(call.args[0]), call.attrs.axis
    if not shape or len(shape) < 2 or axis is None or [int(place) % len(shape) for place in axis] != [len(shape) - 1]:
        return None
    out_shape = (*shape[:-1], 1) if call.attrs.keepdims else shape[:-1]
    function = greatest(shape, out_shape, target.vector_bits // 32, target.threads)
    return Operation(function, "greatest", tuple(call.args), out_shape)


_OPERATIONS: dict[str, Callable[[Any, Target], Operation | None]] = {
    "relax.matmul": _matmul,
    "relax.max": _greatest,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.softmax": _softmax,
}


def _float_shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a float32 tensor, if it is known and not empty."""
    shape = shape_of(value) if getattr(value.ty, "dtype", "") == "float32" else None
    return shape if shape is not None and math.prod(shape) > 0 else None


def _elementwise(function: Callable[[Any], Any], name: str) -> Callable[[relax.BlockBuilder, Any], Any]:
    default = getattr(topi, name)

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *index: function(x(*index)), name=name, tag=topi.tag.ELEMWISE)

    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        ours = getattr(call.args[0].ty, "dtype", "") == "float32"
        return builder.call_te(compute if ours else default, call.args[0], primfunc_name_hint=name)

    return legalize


def _legalize_softmax(builder: relax.BlockBuilder, call: Any) -> Any:
    return builder.call_te(topi.nn.fast_softmax, call.args[0], call.attrs.axis)


# What relax.transform.LegalizeOps is to make of functions that LLVM would call the C library for.
LEGALIZATIONS: dict[str, Callable[[relax.BlockBuilder, Any], Any]] = {
    "relax.erf": _elementwise(vector_math.erf, "erf"),
    "relax.exp": _elementwise(vector_math.exp, "exp"),
    "relax.sigmoid": _elementwise(vector_math.sigmoid, "sigmoid"),
    "relax.tanh": _elementwise(vector_math.tanh, "tanh"),
    "relax.nn.softmax": _legalize_softmax,
}
