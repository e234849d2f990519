"""Finds, in an imported Relax function, values that are rounded to what bytes can stand for, and what can be bytes.

    rounded = clip(round(value * inverse), -zero, 255 - zero) * scale

What `scale` is is no constant there but an input of the function, of a name that says it: a model that rounds on its
own has none, whatever it computes.

Kernels read such bytes in the place of the floats, and write them where nothing else needs the floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from hwsparse.codegen.chains import Chain
from hwsparse.codegen.graph import Graph, clip_bounds
from hwsparse.codegen.operations import greatest_of_bytes
from hwsparse.quantise import Scale
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Rounding:
    """What is rounded, to what, and the variables on the way, the last of which is the result."""

    source: Any
    scale: Scale
    variables: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class AsBytes:
    """What stands for the values of a variable."""

    variable: Any
    scale: Scale


@dataclass(frozen=True, slots=True)
class Bytes:
    """What layers read and write as bytes.

    `stored` are the results, by variable, that nothing needs as floats, `pooled` those that are pooled first, by the
    variable of what is then read; `absorbed` is all on the way to what layers read.
    """

    roundings: Mapping[Any, Rounding]
    stored: Mapping[Any, Scale]
    pooled: Mapping[Any, Any]
    absorbed: frozenset[Any]

    @classmethod
    def of(
        cls,
        graph: Graph,
        scales: Mapping[str, Scale],
        chains: Sequence[Chain],
        writers: Sequence[Chain],
        target: Target,
    ) -> Bytes:
        """Of chains that read bytes, and of all that can write them; `scales` by the inputs that hold them."""
        roundings = find_roundings(graph, scales)
        read = {each for chain in chains for each in (chain.source, chain.residual) if each in roundings}
        theirs = {var for chain in chains for var in chain.variables}
        # All who read what was rounded are such chains.
        whole = {var for var in read if all(user in theirs for user in graph.users[var])}
        ends = {chain.variables[-1] for chain in writers}
        by_source: dict[Any, set[Any]] = {}
        for var in whole:
            by_source.setdefault(roundings[var].source, set()).add(var)
        stored, pooled = {}, {}
        for source, found in by_source.items():
            rounding = roundings[next(iter(found))]
            if len(found) > 1 or set(graph.users[source]) != {rounding.variables[0]}:
                continue
            if source not in ends and greatest_of_bytes(graph.values.get(source), target) is not None:
                before = graph.arguments(source)[0]
                if before in ends and graph.only_user(before) == source:
                    pooled[source], stored[before] = before, rounding.scale
            elif source in ends:
                stored[source] = rounding.scale
        absorbed = frozenset(step for var in whole for step in roundings[var].variables)
        return cls(roundings, stored, pooled, absorbed | pooled.keys())

    def read(self, variable: Any) -> Rounding | None:
        """Where a variable is what something was rounded to: that."""
        return None if variable is None else self.roundings.get(variable)


def find_roundings(graph: Graph, scales: Mapping[str, Scale]) -> dict[Any, Rounding]:
    """By the variable that holds what was rounded, by scales that inputs hold."""
    found = {}
    for var in graph.values:
        if graph.operator(var) == "relax.multiply":
            clipped, step = graph.arguments(var)
            if isinstance(step, relax.Var) and step not in graph.values and step.name in scales:
                found[var] = _rounding(graph, var, clipped, scales[step.name])
    return found


def _rounding(graph: Graph, var: Any, clipped: Any, scale: Scale) -> Rounding:
    variables, value = [var], clipped
    while clip_bounds(graph.values[value], graph.operator(value)) is not None:
        variables.append(value)
        value = _operand(graph, value)
    assert graph.operator(value) == "relax.round"
    scaled = graph.arguments(value)[0]
    source, _ = graph.arguments(scaled)
    return Rounding(source, scale, (scaled, value, *reversed(variables)))


def _operand(graph: Graph, var: Any) -> Any:
    """What a clip is of, whatever form the importer gave it."""
    first = graph.arguments(var)[0]
    return first if isinstance(first, relax.Var) else graph.values[var].args[1].fields[0]
