"""What a layer's inputs look like on calibration data: their second moments, and the output error they imply.

    H = mean over positions of x x^T, x the input patch of a position, in the order of the weight's columns

For a weight changed from W to P the mean squared change of the output is tr((W - P) H (W - P)^T), so one
pass over the data tells the error of every mask. Streamed: memory is one H per layer, whatever the data;
layers too wide for a matrix keep its diagonal, and networks too large are looked at in several passes.

Knows no patterns.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from hwsparse.data import Dataset
from hwsparse.data.runs import run, session_of
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import Layer

# Patches per sample and layer; of larger feature maps an even share of positions is taken.
MAX_POSITIONS = 512
# A 3x3 convolution of 512 channels has as many columns: a moment of 170 MB while it is summed.
MAX_COLUMNS = 4608
# Layers whose inputs and moments together take more are looked at in several passes over the samples.
MAX_PASS_BYTES = 1 << 30

# Of the mean power of a layer's inputs, added to each: what calibration data do not show is not relied on.
DAMPING = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """The mean over `positions` patches of their second moments, float32.

    `second_moment` is (groups, columns, columns), the columns those of one group's weights; where there are
    more than MAX_COLUMNS of them, only the diagonal, (groups, columns).
    """

    second_moment: np.ndarray
    positions: int

    @property
    def diagonal(self) -> np.ndarray:
        """The mean square of each column, (groups, columns)."""
        moment = self.second_moment
        return moment if moment.ndim == 2 else np.diagonal(moment, axis1=1, axis2=2)

    @property
    def apart(self) -> bool:
        """Whether no input is known to tell of another: only a diagonal is kept, or all inputs are zero."""
        return self.second_moment.ndim == 2 or not self.diagonal.any()

    def damped(self) -> np.ndarray:
        """The second moments, positive definite: each has some of its group's mean power added to it.

        Inputs that never vary, or fewer samples than inputs, leave them singular. A group whose inputs are all zero has
        that of all groups added. Not for a diagonal alone, nor where all inputs are zero.
        """
        powers = self.diagonal.mean(axis=1, dtype=np.float32)
        ridge = np.float32(DAMPING) * np.where(powers > 0, powers, powers.mean())
        damped: np.ndarray = self.second_moment + ridge[:, None, None] * np.eye(
            self.second_moment.shape[1], dtype=np.float32
        )
        return damped


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
        DataError: onnxruntime cannot run a sample, or an input of a layer is not finite on it, or too large
            to square.
    """
    if max_samples < 1:
        raise DataError(f"statistics need at least 1 sample, not {max_samples}")
    sources = _sources(model, layers)
    samples = np.random.default_rng(seed).permutation(dataset.rows)[:max_samples].tolist()
    turns = list(passes(layers))
    found: dict[str, LayerStatistics] = {}
    for number, together in enumerate(turns):
        session = _session(model, sorted({sources[layer.name] for layer in together}), threads)
        sums = {layer.name: np.zeros(_moment_shape(layer), np.float64) for layer in together}
        counts = dict.fromkeys(sums, 0)
        for done, sample in enumerate(samples):
            tensors, attended = _tensors(session, dataset, sample), dataset.attended(sample)
            for layer in together:
                # Its own for each layer and sample: statistics do not depend on which other layers are asked for.
                rng = np.random.default_rng([seed, sample, zlib.crc32(layer.name.encode())])
                patches = patches_of(tensors[sources[layer.name]], layer, rng, MAX_POSITIONS, attended)
                sums[layer.name] += _moment(patches, layer, f"sample {sample} of {dataset.name}")
                counts[layer.name] += patches.shape[1]
            progress(number * len(samples) + done + 1, len(turns) * len(samples))
        for name, count in counts.items():
            found[name] = LayerStatistics((sums.pop(name) / count).astype(np.float32), count)
    return found


def output_error(weight: np.ndarray, pruned: np.ndarray, statistics: LayerStatistics) -> float:
    """The squared change of the layer's output relative to its square, both summed over the data.

    A layer whose output is always zero has error 0 if it stays so, else 1. Where statistics are a diagonal,
    inputs are taken as uncorrelated.
    """
    moment = statistics.second_moment
    before = weight.reshape(moment.shape[0], -1, moment.shape[1])
    energy = _energy(before, moment)
    lost = _energy(before - pruned.reshape(before.shape), moment)
    return lost / energy if energy > 0 else float(lost > 0)


def _energy(rows: np.ndarray, moment: np.ndarray) -> float:
    """tr(R H R^T), summed over groups; `rows` is (groups, rows, columns)."""
    weighted = rows * moment[:, None] if moment.ndim == 2 else rows @ moment
    return max(0.0, float(np.sum(weighted * rows, dtype=np.float64)))


def _moment_shape(layer: Layer) -> tuple[int, ...]:
    wide = layer.inputs > MAX_COLUMNS
    return (layer.groups, layer.inputs) if wide else (layer.groups, layer.inputs, layer.inputs)


def passes(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """The layers, in order, in lists that fit into memory together."""
    together: list[Layer] = []
    total = 0
    for layer in layers:
        size = 4 * math.prod(layer.input_shape) + 8 * math.prod(_moment_shape(layer))
        if together and total + size > MAX_PASS_BYTES:
            yield together
            together, total = [], 0
        together.append(layer)
        total += size
    if together:
        yield together


def _moment(patches: np.ndarray, layer: Layer, where: str) -> np.ndarray:
    """The sum over positions of x x^T, or of its diagonal."""
    moment: np.ndarray
    with np.errstate(over="ignore", invalid="ignore"):
        if layer.inputs > MAX_COLUMNS:
            moment = diagonal = np.square(patches).sum(axis=1)
        else:
            moment = np.matmul(patches.transpose(0, 2, 1), patches)
            diagonal = np.diagonal(moment, axis1=1, axis2=2)
    # No other entry exceeds the largest of the diagonal.
    if not np.isfinite(diagonal).all():
        raise DataError(f"layer {layer.name!r}: its input is not finite on {where}, or too large to square")
    return moment


def _sources(model: Model, layers: Sequence[Layer]) -> dict[str, str]:
    """The tensor that each layer reads."""
    readers = {
        node.input[1]: node.input[0] for node in onnx.load_from_string(model.proto).graph.node if len(node.input) > 1
    }
    return {layer.name: readers[layer.weight] for layer in layers}


def _session(model: Model, tensors: Sequence[str], threads: int) -> onnxruntime.InferenceSession:
    """A session that answers with these tensors of the model, and computes nothing past them."""
    proto = onnx.load_from_string(model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return session_of(proto.SerializeToString(), threads=threads)


def _tensors(session: onnxruntime.InferenceSession, dataset: Dataset, sample: int) -> dict[str, np.ndarray]:
    names = [port.name for port in session.get_outputs()]
    feeds = {name: values[sample : sample + 1] for name, values in dataset.inputs.items()}
    return dict(zip(names, run(session, names, feeds, f"sample {sample} of {dataset.name}"), strict=True))


def patches_of(
    x: np.ndarray, layer: Layer, rng: np.random.Generator, most: int, attended: np.ndarray | None
) -> np.ndarray:
    """Input patches as (groups, positions, columns of a group) float32.

    Args:
        x: what the layer reads of one sample.
        most: of more positions, as many are drawn.
        attended: of tokens, those that count: what a network makes of padding is nobody's concern.
    """
    if layer.window is None:
        rows = x.reshape(1, -1, layer.inputs)
        if attended is not None and rows.shape[1] == len(attended):
            rows = rows[:, attended]
        return rows[:, _some(rows.shape[1], most, rng)].astype(np.float32)
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
    chosen = np.unravel_index(_some(int(np.prod(sizes)), most, rng), sizes)
    patches = flat[chosen].reshape(len(chosen[0]), layer.groups, layer.inputs)
    return np.ascontiguousarray(patches.transpose(1, 0, 2), dtype=np.float32)


def _some(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False, shuffle=False))
