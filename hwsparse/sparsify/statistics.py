"""What a layer's inputs look like on calibration data: their second moments, and the output error they imply.

    H = mean over positions of x x^T, x the input patch of a position, in the order of the weight's columns

For a weight changed from W to P the mean squared change of the output is tr((W - P) H (W - P)^T), so one
pass over the data tells the error of every mask. Streamed: memory is one H per layer, whatever the data.

Knows no patterns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import Layer

# Patches per sample and layer; of larger feature maps an even share of positions is taken.
MAX_POSITIONS = 512


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """`second_moment` is (groups, columns, columns) float32, the mean over `positions` patches."""

    second_moment: np.ndarray
    positions: int


def collect_statistics(
    model: Model,
    dataset: Dataset,
    layers: Sequence[Layer],
    *,
    max_samples: int = 64,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, LayerStatistics]:
    """Second moments of the inputs of `layers` over at most `max_samples` samples of the data.

    Raises:
        DataError: an input of a layer is not finite on some sample.
    """
    sources = _sources(model, layers)
    session = _session(model, sorted(set(sources.values())), threads)
    names = [port.name for port in session.get_outputs()]
    samples = np.random.default_rng(seed).permutation(dataset.rows)[:max_samples]
    sums = {layer.name: np.zeros((layer.groups, layer.inputs, layer.inputs), np.float64) for layer in layers}
    counts = dict.fromkeys(sums, 0)
    for done, sample in enumerate(samples):
        feeds = {name: values[sample : sample + 1] for name, values in dataset.inputs.items()}
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        for layer in layers:
            # Of its own for each layer and sample: a layer's statistics do not depend on which others are asked for.
            rng = np.random.default_rng([seed, int(sample), zlib.crc32(layer.name.encode())])
            patches = _patches(outputs[sources[layer.name]], layer, rng)
            if not np.isfinite(patches).all():
                raise DataError(f"layer {layer.name!r}: its input is not finite on sample {sample} of {dataset.name}")
            sums[layer.name] += patches.transpose(0, 2, 1) @ patches
            counts[layer.name] += patches.shape[1]
        progress(done + 1, len(samples))
    return {
        name: LayerStatistics((total / counts[name]).astype(np.float32), counts[name]) for name, total in sums.items()
    }


def output_error(weight: np.ndarray, pruned: np.ndarray, statistics: LayerStatistics) -> float:
    """The squared change of the layer's output relative to its square, both summed over the data.

    A layer whose output is always zero has error 0.
    """
    moment = statistics.second_moment
    before = weight.reshape(moment.shape[0], -1, moment.shape[1])
    change = before - pruned.reshape(before.shape)
    energy = float(np.sum((before @ moment) * before, dtype=np.float64))
    return max(0.0, float(np.sum((change @ moment) * change, dtype=np.float64))) / energy if energy > 0 else 0.0


def _sources(model: Model, layers: Sequence[Layer]) -> dict[str, str]:
    """The tensor that each layer reads."""
    readers = {
        node.input[1]: node.input[0] for node in onnx.load_from_string(model.proto).graph.node if len(node.input) > 1
    }
    return {layer.name: readers[layer.weight] for layer in layers}


def _session(model: Model, tensors: Sequence[str], threads: int) -> onnxruntime.InferenceSession:
    proto = onnx.load_from_string(model.proto)
    have = {port.name for port in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in have)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _patches(x: np.ndarray, layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Input patches as (groups, positions, columns of a group) float32."""
    if layer.window is None:
        rows = x.reshape(1, -1, layer.inputs)
        return rows[:, _some(rows.shape[1], rng)].astype(np.float32)
    window, kernel = layer.window, layer.weight_shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), *window.pads))
    spans = tuple(d * (k - 1) + 1 for d, k in zip(window.dilations, kernel, strict=True))
    axes = tuple(range(2, x.ndim))
    views = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
    steps = tuple(slice(None, None, step) for step in window.strides)
    taps = tuple(slice(None, None, step) for step in window.dilations)
    views = views[(slice(None), slice(None), *steps, *taps)]  # (batch, channels, *out, *kernel)
    rank = len(kernel)
    # To (batch, *out, groups, channels of a group, *kernel), then positions together.
    out = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    flat = views.transpose(out)
    sizes = flat.shape[: 1 + rank]
    chosen = np.unravel_index(_some(int(np.prod(sizes)), rng), sizes)
    patches = flat[chosen].reshape(len(chosen[0]), layer.groups, layer.inputs)
    return np.ascontiguousarray(patches.transpose(1, 0, 2), dtype=np.float32)


def _some(count: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= MAX_POSITIONS else np.sort(rng.permutation(count)[:MAX_POSITIONS])
