"""Between what the values of tensors lie: seen by onnxruntime on samples, for bytes to stand for it.

What makes a range of the values that were seen is a method of its own (`range_methods`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

import numpy as np
import onnx
from onnx import helper

from hwsparse.data import Dataset
from hwsparse.data.runs import run, session_of
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.quantise import Scale, range_name, split_weights
from hwsparse.range_methods import DEFAULT_METHOD, METHODS, Range, range_method
from hwsparse.sparsify.apply import adds_of_pictures, in_types, is_depthwise

# Of a data set so many samples are looked at.
SAMPLES = 64


def tensor_ranges(
    model: Model, samples: Iterable[Mapping[str, np.ndarray]], method: Callable[[], Range] = METHODS[DEFAULT_METHOD]
) -> dict[str, tuple[float, float]]:
    """The lowest and the highest of each tensor that bytes may stand for, by name.

    Args:
        samples: inputs by name, with the batch axis.
        method: makes, for each tensor, what sees its values and tells its range.

    Raises:
        DataError: there is no sample, onnxruntime cannot run one, or a tensor holds none or what is not finite.
    """
    proto = onnx.load_from_string(model.proto)
    graph = proto.graph
    read, added = _tensors(model)
    tensors = {*read.values(), *added.values()}
    made = sorted(tensors - {item.name for item in graph.input})
    known = {item.name for item in graph.output}
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made if name not in known)
    session = session_of(proto.SerializeToString(), optimised=False)
    found = {name: method() for name in tensors}
    count = 0
    for feeds in samples:
        count += 1
        given = run(session, made, feeds, f"sample {count}") if made else ()  # of no names all outputs would be given
        values = {**feeds, **dict(zip(made, given, strict=True))}
        for name in tensors:
            if not values[name].size:
                raise DataError(f"tensor {name!r} holds no values on sample {count}")
            if not np.isfinite(values[name]).all():
                raise DataError(f"tensor {name!r} holds values that are not finite on sample {count}")
            found[name].see(values[name])
    if not count:
        raise DataError("to see what layers read takes a sample")
    return {name: seen.ends for name, seen in found.items()}


def ranges_on(model: Model, dataset: Dataset, method: str = DEFAULT_METHOD) -> dict[str, tuple[float, float]]:
    """`tensor_ranges` on samples spread over a data set; what a model states that was quantised already goes before.

    Args:
        method: by its name.

    Raises:
        InputError: there is no such method.
        DataError: onnxruntime cannot run a sample, or a tensor holds what is not finite.
    """
    rows = np.linspace(0, dataset.rows - 1, min(SAMPLES, dataset.rows)).astype(int)
    samples = (dataset.sample(row, dataset.tokens) for row in rows.tolist())
    seen = tensor_ranges(model, samples, range_method(method))
    return {tensor: model.ranges.get(tensor, ends) for tensor, ends in seen.items()}


def as_bytes(
    model: Model, plan: Plan, weights: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, np.ndarray]:
    """Weights for a plan whose int8 layers have theirs rounded to what bytes stand for, and ranges of what they read.

    Of two int8 layers whose outputs are added, that of the first has a range too.

    Args:
        weights: canonical, by layer name; those of int8 layers that are not among them are the model's.
        ranges: by tensor, as `tensor_ranges` gives them.

    Raises:
        ModelError: the plan names a layer that the model does not have.
        DataError: a range that it takes is not among `ranges`.
    """
    return rounded_weights(model, plan, weights) | ranges_for(model, plan, ranges)


def rounded_weights(model: Model, plan: Plan, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As `in_types`; the weights of rounded layers that are not among those given are the model's.

    Raises:
        ModelError: the plan names a layer that the model does not have.
    """
    missing = {name for name, choice in plan.choices if choice.dtype != "float32"}.difference(weights)
    return in_types(plan, {**weights, **{name: model.weight(name) for name in missing}})


def scales_read(model: Model, plan: Plan, weights: Mapping[str, np.ndarray]) -> dict[str, Scale]:
    """What bytes stand for in what a plan's int8 layers read, by layer name, as the ranges among weights tell.

    Raises:
        DataError: one is not among them.
    """
    scales = split_weights(weights).scales
    read, _ = _tensors(model)
    _require(scales, {read[name] for name in plan.in_bytes})
    return {name: scales[read[name]] for name in plan.in_bytes}


def coarse_notes(model: Model, plan: Plan, weights: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A line for each int8 layer whose bytes lie further apart than all that it was seen to read.

    Bytes stand for 0 too, with which kernels pad: of 1000 give or take 1 they tell next to nothing.

    Args:
        weights: with the ranges of what layers read.
    """
    read, _ = _tensors(model)
    found = []
    for name in sorted(plan.in_bytes):
        ends = weights.get(range_name(read[name]))
        if ends is not None:
            low, high = map(float, ends)
            step = Scale.of(low, high).scale
            if 0 < high - low < step:
                found.append(
                    f"Layer {name!r} reads values from {low:.6g} to {high:.6g} as bytes that lie {step:.3g} apart, "
                    f"because they reach to 0: it can hardly tell what it reads, and float32 would suit it better."
                )
    return tuple(found)


def ranges_for(model: Model, plan: Plan, ranges: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """The ranges of what a plan's int8 layers read and have added to them, by the names they have among weights.

    Raises:
        DataError: one is not among `ranges`.
    """
    if not (own := plan.in_bytes):
        return {}
    read, pairs = _tensors(model)
    added = (tensor for pair, tensor in pairs.items() if own.issuperset(pair))
    names = {*(read[each] for each in own), *added}
    _require(ranges, names)
    return {range_name(name): np.array(ranges[name], np.float32) for name in names}


def _require(known: Collection[str], read: set[str]) -> None:
    """Refuses to round what layers read where nothing is known of it."""
    if unknown := read.difference(known):
        raise DataError(f"int8 layers read {min(unknown)!r}, and nothing tells between what it lies")


@lru_cache(maxsize=2)
def _tensors(model: Model) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """What each layer reads, and by pairs of layers whose outputs are added the output that the other's kernel adds.

    That is the later one's, or else that of the one which is not depthwise: kernels of those add nothing.
    """
    graph = onnx.load_from_string(model.proto).graph
    layers = {layer.name for layer in model.layers}
    read = {node.name: node.input[0] for node in graph.node if node.name in layers}
    made = {
        node.output[0]: (not is_depthwise(node, graph), place, node.name)
        for place, node in enumerate(graph.node)
        if node.name in layers
    }
    found = {}
    adds = adds_of_pictures(graph)
    for node in graph.node:
        if node.name in adds and all(name in made for name in node.input):
            first, second = sorted(node.input, key=made.__getitem__)
            found[made[first][-1], made[second][-1]] = first
    return read, found
