"""Names that a graph does not have yet, for what is put into it.

Knows nothing of what is put in.
"""

from __future__ import annotations

import onnx

from hwsparse.model.read import nodes


def names_in(graph: onnx.GraphProto) -> set[str]:
    """What a graph and those inside it call their nodes, tensors and constants."""
    inner = [each for node in nodes(graph) for item in node.attribute for each in (item.g, *item.graphs)]
    found = set[str]()
    for each in (graph, *inner):
        found.update(item.name for item in (*each.input, *each.output, *each.value_info))
        found.update(item.name for item in each.initializer)
    for node in nodes(graph):
        found.update((node.name, *node.input, *node.output))
    return found


def free_name(wanted: str, taken: set[str]) -> str:
    """A name as it is wanted, or with a number behind it; it is then taken."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
