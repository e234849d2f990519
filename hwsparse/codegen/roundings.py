"""Finds, in an imported Relax function, values that are rounded to what bytes can stand for.

    rounded = clip(round(value * inverse), -zero, 255 - zero) * scale

Kernels read such bytes, and write them, in the place of the floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import relax

from hwsparse.codegen.graph import Graph, clip_bounds, scalar
from hwsparse.quantise import MOST_VALUE, Scale


@dataclass(frozen=True, slots=True)
class Rounding:
    """What is rounded, to what, and the variables on the way, the last of which is the result."""

    source: Any
    scale: Scale
    variables: tuple[Any, ...]


def find_roundings(graph: Graph) -> dict[Any, Rounding]:
    """By the variable that holds what was rounded."""
    found = {}
    for var in graph.values:
        if (rounding := _rounding(graph, var)) is not None:
            found[var] = rounding
    return found


def _rounding(graph: Graph, var: Any) -> Rounding | None:
    clipped, back = _operands(graph, var)
    if back is None or not back > 0:
        return None
    variables, low, high, value = [var], -math.inf, math.inf, clipped
    while value in graph.values and (bounds := clip_bounds(graph.values[value], graph.operator(value))) is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
        variables.append(value)
        value = _operand(graph, value)
    if high - low != MOST_VALUE or not -MOST_VALUE <= low <= 0 or graph.operator(value) != "relax.round":
        return None
    scaled = graph.arguments(value)[0]
    source, inverse = _operands(graph, scaled)
    scale = Scale(back, round(-low))
    if inverse != float(scale.inverse):
        return None
    return Rounding(source, scale, (scaled, value, *reversed(variables)))


def _operand(graph: Graph, var: Any) -> Any:
    """What a clip is of, whatever form the importer gave it."""
    first = graph.arguments(var)[0]
    return first if isinstance(first, relax.Var) else graph.values[var].args[1].fields[0]


def _operands(graph: Graph, var: Any) -> tuple[Any, float | None]:
    """What is multiplied by a constant number, and the number."""
    if graph.operator(var) != "relax.multiply":
        return None, None
    left, right = graph.arguments(var)
    return left, scalar(right)
