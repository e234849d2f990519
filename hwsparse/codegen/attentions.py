"""Finds attention in an imported Relax function: matmul, scale, mask, softmax, matmul, whatever the views between.

Knows nothing of layers; what it does not recognise stays as separate operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from hwsparse.codegen.cpu.attention import Attention, Placed
from hwsparse.codegen.graph import Graph, View, contiguous, shape_of

Four = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """One attention; `variables`, the last of them its result, are computed for nothing else.

    `inputs` are what holds queries, keys, values and, where there is one, the mask.
    """

    sizes: Attention
    inputs: tuple[Any, ...]
    variables: tuple[Any, ...]


def find_attentions(main: relax.Function) -> list[Found]:
    """Every attention in the function whose arrays have known shapes, in the function's order."""
    graph = Graph.of(main)
    found = [_attention(graph, var) for var in graph.values if graph.operator(var) == "relax.nn.softmax"]
    return [item for item in found if item is not None]


def _attention(graph: Graph, softmax: Any) -> Found | None:
    product = graph.only_user(softmax)
    if graph.operator(product) != "relax.matmul" or not graph.arguments(product)[0].same_as(softmax):
        return None
    sizes = shape_of(softmax)
    if sizes is None or len(sizes) not in (3, 4) or graph.values[softmax].attrs.axis not in (-1, len(sizes) - 1):
        return None
    scores = _scores(graph, graph.arguments(softmax)[0], sizes)
    if scores is None:
        return None
    variables, scale, mask = scores
    query, key = (graph.view(operand) for operand in graph.arguments(variables[-1]))
    value, (out, out_strides) = graph.view(graph.arguments(product)[1]), _result(graph, product)
    mask_strides = _broadcast(mask, sizes) if mask is not None else ()
    if query is None or key is None or value is None or value.factor != 1 or out_strides is None:
        return None
    if mask_strides is None or not query.sizes[:-2] == key.sizes[:-2] == value.sizes[:-2] == sizes[:-2]:
        return None
    inputs = (query.base, key.base, value.base) + ((mask,) if mask is not None else ())
    if any(str(getattr(array.ty, "dtype", "")) != "float32" for array in inputs):
        return None
    batch, heads, queries, keys = _four(sizes, 1)
    attention = Attention(
        batch, heads, queries, keys, query.sizes[-1], value.sizes[-1], scale * query.factor * key.factor,
        _placed(query.base, query.offset, query.strides),
        _placed(key.base, key.offset, (*key.strides[:-2], key.strides[-1], key.strides[-2])),
        _placed(value.base, value.offset, value.strides),
        _placed(mask, 0, mask_strides) if mask is not None else None, _placed(out[-1], 0, out_strides),
    )  # fmt: skip
    return Found(attention, inputs, (*variables, softmax, *out))


def _scores(graph: Graph, var: Any, sizes: tuple[int, ...]) -> tuple[list[Any], float, Any] | None:
    """The variables from the softmax's argument back to the product, the scale between them and the mask."""
    variables: list[Any] = []
    scale, mask = 1.0, None
    while graph.only_user(var) is not None:
        variables.append(var)
        if graph.operator(var) == "relax.matmul":
            return variables, scale, mask
        if (scaled := graph.scaled(var)) is not None:
            var, scale = scaled[0], scale * scaled[1]
        elif graph.operator(var) == "relax.add" and mask is None and scale == 1:
            left, right = graph.arguments(var)
            var, mask = (left, right) if _leads_to_product(graph, left, sizes) else (right, left)
        else:
            return None
    return None


def _leads_to_product(graph: Graph, var: Any, sizes: tuple[int, ...]) -> bool:
    while (scaled := graph.scaled(var)) is not None:
        var = scaled[0]
    return graph.operator(var) == "relax.matmul" and shape_of(var) == sizes


def _result(graph: Graph, product: Any) -> tuple[list[Any], tuple[int, ...] | None]:
    """The product and the views that alone are taken of it, up to a transposition; its strides in the last."""
    sizes = shape_of(product)
    if sizes is None:
        return [product], None
    views, best = [product], ([product], contiguous(sizes))
    while (user := graph.only_user(views[-1])) is not None:
        view = graph.view(user)
        if view is None or not view.base.same_as(product) or view.factor != 1:
            break
        views.append(user)
        strides = _inverse(view, sizes)
        if graph.operator(user) == "relax.permute_dims" and strides is not None:
            best = list(views), strides
    return best


def _inverse(view: View, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides, in the contiguous array that `view` is copied to, of its base's axes."""
    places = {
        (size, stride): place
        for size, stride, place in zip(view.sizes, view.strides, contiguous(view.sizes), strict=True)
    }
    strides = [
        0 if size == 1 else places.get((size, stride)) for size, stride in zip(sizes, contiguous(sizes), strict=True)
    ]
    return None if None in strides else tuple(stride for stride in strides if stride is not None)


def _broadcast(value: Any, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a contiguous array that is broadcast to `sizes`; None if it cannot be."""
    shape = shape_of(value)
    if shape is None or len(shape) > len(sizes):
        return None
    shape = (1,) * (len(sizes) - len(shape)) + shape
    if any(size not in (1, whole) for size, whole in zip(shape, sizes, strict=True)):
        return None
    return tuple(stride if size > 1 else 0 for size, stride in zip(shape, contiguous(shape), strict=True))


def _placed(array: Any, offset: int, strides: tuple[int, ...]) -> Placed:
    shape = shape_of(array)
    assert shape is not None  # only arrays of known shape have strides
    return Placed(shape, offset, _four(strides, 0))


def _four(values: tuple[int, ...], first: int) -> Four:
    one, two, three, four = (first,) * (4 - len(values)) + values
    return one, two, three, four
