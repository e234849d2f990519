"""A Relax function as a graph: who computes a variable, who reads it, and of what it is a strided view.

Knows nothing of layers or kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst

RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


@dataclass(frozen=True, slots=True)
class View:
    """An array whose element at `index` is `factor` times the one of `base` at `offset` + index . strides."""

    base: Any
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Graph:
    """The bindings of a function's body: `values` by variable, in order, and `users` of each variable."""

    values: dict[Any, Any]
    users: dict[Any, list[Any]]

    @classmethod
    def of(cls, main: relax.Function) -> Graph:
        values = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
        users: dict[Any, list[Any]] = {}
        for var, value in values.items():
            for argument in _arguments(value):
                users.setdefault(argument, []).append(var)
        users.setdefault(main.body.body, []).append(main)
        return cls(values, users)

    def operator(self, var: Any) -> str:
        """The name of what computes a variable; empty for inputs."""
        return operator_of(self.values.get(var))

    def arguments(self, var: Any) -> list[Any]:
        """What the call that computes `var` is given."""
        return list(self.values[var].args)

    def only_user(self, var: Any) -> Any:
        """The one variable computed from `var`, which reads it once; None when there is no such variable."""
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 and users[0] in self.values else None

    def scaled(self, var: Any) -> tuple[Any, float] | None:
        """What `var` is a constant number of times of, and that number."""
        operator = self.operator(var)
        if operator not in ("relax.multiply", "relax.divide"):
            return None
        left, right = self.arguments(var)
        if (number := scalar(right)) is not None and (operator == "relax.multiply" or number):
            return left, number if operator == "relax.multiply" else 1 / number
        if operator == "relax.multiply" and (number := scalar(left)) is not None:
            return right, number
        return None

    def view(self, var: Any) -> View | None:
        """The variable as a view of the one furthest back that it is a view of; None if its shape is not known."""
        sizes = shape_of(var)
        if sizes is None:
            return None
        operator = self.operator(var)
        view = None
        if operator == "relax.permute_dims":
            view = self.view(self.arguments(var)[0])
            if view is not None:
                axes = self.values[var].attrs.axes
                order = [int(axis) for axis in axes] if axes is not None else list(range(len(sizes)))[::-1]
                view = View(view.base, view.offset, sizes, tuple(view.strides[axis] for axis in order), view.factor)
        elif operator in RESHAPES:
            view = self.view(self.arguments(var)[0])
            strides = _reshaped(view, sizes) if view is not None else None
            view = View(view.base, view.offset, sizes, strides, view.factor) if view and strides else None
        elif (scaled := self.scaled(var)) is not None and shape_of(scaled[0]) == sizes:
            view = self.view(scaled[0])
            if view is not None:
                view = View(view.base, view.offset, sizes, view.strides, view.factor * scaled[1])
        return view or View(var, 0, sizes, contiguous(sizes))


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array without gaps."""
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _reshaped(view: View, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a view under another shape; None when that would need a copy.

    Both shapes are cut into the shortest runs of axes of equal size; a run must be contiguous to be cut anew.
    """
    old = [(size, stride) for size, stride in zip(view.sizes, view.strides, strict=True) if size != 1]
    strides: list[int] = []
    for size in sizes:
        if size == 1:
            strides.append(0)
            continue
        if not old:
            return None
        (first, stride), *rest = old
        while first % size and rest and stride == rest[0][0] * rest[0][1]:
            first, stride, rest = first * rest[0][0], rest[0][1], rest[1:]
        if first % size:
            return None
        strides.append(first // size * stride)
        old = [(first // size, stride), *rest] if first > size else rest
    return tuple(strides)


def operator_of(value: Any) -> str:
    """The name of what a binding calls; of a generated function, its name without its number."""
    if not isinstance(value, relax.Call):
        return ""
    if getattr(value.op, "name", "") == "relax.call_tir":
        return str(value.args[0].name_hint).rstrip("0123456789")
    return str(getattr(value.op, "name", ""))


def constant(value: Any) -> np.ndarray | None:
    """The array that a constant is."""
    return value.value.numpy() if isinstance(value, GenericConst) else None


def scalar(value: Any) -> float | None:
    """The number that a constant of one element is."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def clip_bounds(value: Any, operator: str) -> tuple[float, float] | None:
    """The bounds of a clip by constants, in any of the forms that the importer gives it."""
    if operator == "relax.nn.relu":
        return 0.0, math.inf
    if operator == "relax.nn.relu6":
        return 0.0, 6.0
    if operator == "relax.clip":
        return float(value.args[1].value), float(value.args[2].value)
    if operator in ("relax.maximum", "relax.minimum", "maximum", "minimum"):
        operands = value.args[1] if operator in ("maximum", "minimum") else value.args
        number = scalar(operands[1])
        if number is not None:
            return (number, math.inf) if operator.endswith("maximum") else (-math.inf, number)
    return None


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor if it is known in full."""
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(hasattr(size, "value") for size in shape.values):
        return None
    return tuple(int(size) for size in shape.values)


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
