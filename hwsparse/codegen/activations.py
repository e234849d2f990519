"""Finds activation functions in an imported Relax function by what they compute, in whatever form they are written.

The operations that follow a variable are run on sample points; an activation is a run of them that agrees
with one that kernels know, and of which nothing else uses an intermediate.

Knows nothing of layers or kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hwsparse.codegen.graph import RESHAPES, Graph, scalar, shape_of

# Operations that an activation is made of at most: GELU by tanh takes nine, some write it longer.
MOST_STEPS = 16
POINTS = np.linspace(-9.0, 9.0, 73)
# How far constants rounded to float32 may move a value; GELU and its approximation are 5e-4 apart.
TOLERANCE = 1e-5

_erf = np.vectorize(math.erf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)


_OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": np.add,
    "relax.clip": np.clip,
    "relax.divide": np.divide,
    "relax.erf": _erf,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.multiply": np.multiply,
    "relax.negative": np.negative,
    "relax.nn.gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.relu": lambda x: np.maximum(x, 0),
    "relax.nn.relu6": lambda x: np.clip(x, 0, 6),
    "relax.nn.silu": lambda x: x * _sigmoid(x),
    "relax.power": np.power,
    "relax.sigmoid": _sigmoid,
    "relax.subtract": np.subtract,
    "relax.tanh": np.tanh,
    **dict.fromkeys(RESHAPES, lambda x: x),
}

KNOWN: dict[str, np.ndarray] = {
    "erf": _erf(POINTS),
    "gelu": POINTS * (1 + _erf(POINTS / math.sqrt(2))) / 2,
    "gelu_tanh": _gelu_tanh(POINTS),
    "hard_swish": POINTS * np.clip(POINTS / 6 + 0.5, 0, 1),
    "sigmoid": _sigmoid(POINTS),
    "silu": POINTS * _sigmoid(POINTS),
    "tanh": np.tanh(POINTS),
}


def find_activation(graph: Graph, source: Any) -> tuple[str, list[Any]] | None:
    """The longest activation of `source`: its name in `KNOWN`, and its variables, the result last."""
    results: dict[Any, np.ndarray] = {source: POINTS}
    best = None
    for _ in range(MOST_STEPS):
        following = next((var for var in _users(graph, results) if _value(graph, var, results) is not None), None)
        if following is None:
            return best
        value = _value(graph, following, results)
        assert value is not None
        results[following] = value
        variables = [var for var in results if var is not source]
        if all(var in results for used in (source, *variables[:-1]) for var in graph.users.get(used, [])):
            name = next((name for name, known in KNOWN.items() if np.abs(known - value).max() < TOLERANCE), None)
            best = (name, variables) if name is not None else best
    return best


def _users(graph: Graph, results: dict[Any, np.ndarray]) -> list[Any]:
    users = [user for var in results for user in graph.users.get(var, [])]
    return [user for user in users if user in graph.values and user not in results]


def _value(graph: Graph, var: Any, results: dict[Any, np.ndarray]) -> np.ndarray | None:
    """A variable at the sample points, if it is computed from `results` and single numbers alone."""
    operator = graph.operator(var)
    operation = _OPERATIONS.get(operator)
    if operation is None:
        return None
    arguments = graph.arguments(var)[: 1 if operator in RESHAPES else None]
    values = [results[item] if item in results else _number(item) for item in arguments]
    if any(value is None for value in values) or shape_of(var) is None:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(operation(*values), np.float64)


def _number(value: Any) -> float | None:
    plain = getattr(value, "value", None)
    return float(plain) if isinstance(plain, int | float) else scalar(value)
