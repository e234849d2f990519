"""What layers read lies between what: seen by onnxruntime on samples, for bytes to stand for it.

Of each sample a tensor's lowest and highest value count, those beyond a share of its values left out; the ranges are
their means over samples. One picture's outlier then neither sets the step of all others, nor is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper

from hwsparse.data.runs import run, session_of
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.quantise import range_name, weight_bytes

# Of a tensor's values, at each end, so many are rounded to the last byte.
BEYOND = 1e-5


def input_ranges(
    model: Model, samples: Iterable[Mapping[str, np.ndarray]], beyond: float = BEYOND
) -> dict[str, tuple[float, float]]:
    """The lowest and the highest that each layer reads, by layer name.

    Args:
        samples: inputs by name, with the batch axis.
        beyond: the share of a tensor's values at each end that a range leaves out.

    Raises:
        DataError: there is no sample, onnxruntime cannot run one, or a layer reads what is not finite.
    """
    proto = onnx.load_from_string(model.proto)
    graph = proto.graph
    read = {node.name: node.input[0] for node in graph.node}
    tensors = {layer.name: read[layer.name] for layer in model.layers}
    fed = {item.name for item in graph.input}
    made = sorted(set(tensors.values()) - fed)
    known = {item.name for item in graph.output}
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made if name not in known)
    session = session_of(proto.SerializeToString(), optimised=False)
    sums: dict[str, np.ndarray] = {}
    count = 0
    for count, feeds in enumerate(samples, 1):
        values = {**feeds, **dict(zip(made, run(session, made, feeds, f"sample {count}"), strict=True))}
        for name in set(tensors.values()):
            ends = np.quantile(values[name], (beyond, 1 - beyond), method="nearest").astype(np.float64)
            if not np.isfinite(ends).all():
                (layer, *_) = (layer for layer, tensor in tensors.items() if tensor == name)
                raise DataError(f"layer {layer!r} reads values that are not finite on sample {count}")
            sums[name] = sums.get(name, np.zeros(2)) + ends
    if not count:
        raise DataError("to see what layers read takes a sample")
    return {layer: (float(sums[name][0] / count), float(sums[name][1] / count)) for layer, name in tensors.items()}


def as_bytes(
    model: Model, plan: Plan, weights: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, np.ndarray]:
    """Weights for a plan whose int8 layers have theirs rounded to what bytes stand for, beside what those read.

    Args:
        weights: canonical, by layer name; those of int8 layers that are not among them are the model's.
        ranges: by layer name.

    Raises:
        ModelError: the plan names a layer that the model does not have.
    """
    found = dict(weights)
    for name, choice in plan.choices:
        if choice.dtype != "int8":
            continue
        weight = weights[name] if name in weights else model.weight(model.layer(name).name)
        signed, scales = weight_bytes(weight)
        found[name] = signed * scales.reshape(-1, *[1] * (weight.ndim - 1))
        found[range_name(name)] = np.array(ranges[name], np.float32)
    return found
