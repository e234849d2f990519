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
from hwsparse.codegen.cpu.normalise import average, greatest, layer_norm, softmax
from hwsparse.codegen.cpu.pooling import Axis, Pooling, pool
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
    return _over_last_axes(call, target, greatest, 1)


def _average(call: Any, target: Target) -> Operation | None:
    """Averages over the last axis alone are sums, which LLVM vectorises, fused with what is around them."""
    return _over_last_axes(call, target, average, 2)


def _over_last_axes(call: Any, target: Target, make: Callable[..., tirx.PrimFunc], fewest: int) -> Operation | None:
    shape, axes = _float_shape(call.args[0]), call.attrs.axis
    if not shape or axes is None:
        return None
    kept = len(shape) - len(axes)
    if len(axes) < fewest or kept < 1 or sorted(int(axis) % len(shape) for axis in axes) != [*range(kept, len(shape))]:
        return None
    out_shape = shape[:kept] + (1,) * (len(axes) if call.attrs.keepdims else 0)
    function = make(shape, out_shape, target.vector_bits // 32, target.threads)
    return Operation(function, make.__name__, tuple(call.args), out_shape)


def greatest_of_bytes(call: Any, target: Target) -> Operation | None:
    """The kernel that pools bytes where a call pools the floats they stand for: what is greatest stays greatest."""
    if ".max_pool" not in operator_of(call):
        return None
    return _pool(call, target, "uint8")


def _pool(call: Any, target: Target, dtype: str = "float32") -> Operation | None:
    """Windows of one or two axes behind the channels."""
    shape, attrs = _float_shape(call.args[0]), call.attrs
    if not shape or attrs.layout not in ("NCHW", "NCW") or attrs.out_layout != attrs.layout:
        return None
    rank = len(shape) - 2
    windows = attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding[:rank], attrs.padding[rank:]
    axes = []
    for size, *numbers in zip(shape[2:], *windows, strict=True):
        kernel, stride, dilation, before, after = (int(number) for number in numbers)
        axes.append(Axis(size, kernel, stride, dilation, before, after, bool(attrs.ceil_mode)))
    if not all(axis.covered for axis in axes):
        return None
    greatest_of = ".max_pool" in operator_of(call)
    rows = axes[0] if rank == 2 else None
    pooling = Pooling(shape[:2], rows, axes[-1], greatest_of, bool(attrs.count_include_pad), dtype)
    # Of bytes too: wider vectors are slower where windows stride.
    function = pool(pooling, target.vector_bits // 32, target.threads)
    return Operation(function, "pool", tuple(call.args), pooling.output_shape)


_OPERATIONS: dict[str, Callable[[Any, Target], Operation | None]] = {
    "relax.matmul": _matmul,
    "relax.max": _greatest,
    "relax.mean": _average,
    "relax.nn.avg_pool1d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.max_pool1d": _pool,
    "relax.nn.max_pool2d": _pool,
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
