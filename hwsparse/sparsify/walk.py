"""A dense network and a pruned one, walking side by side over some samples, layer by layer.

Of what lies behind them they keep only what later layers read. Knows nothing of how weights are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import onnx
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hwsparse.data import Dataset
from hwsparse.data.answers import fewer_tokens
from hwsparse.data.runs import run, session_of
from hwsparse.model import Model
from hwsparse.model.shapes import static_shape
from hwsparse.model.tokens import shortened
from hwsparse.plan import Layer
from hwsparse.sparsify.parts import part_of, tensors_read
from hwsparse.sparsify.statistics import patches_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Patches per sample: neighbours tell much the same.
POSITIONS = 128
# Samples whose products are one: of single ones, to sum up those of a wide layer takes longer than to make them.
TOGETHER = 8
# Of what two networks keep on their way, for all samples together; more samples than fit are not used.
MAX_BYTES = 3 << 29

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Means over what a layer reads: x of the dense network, x' of the pruned one; float64."""

    own: np.ndarray  # of x' x'^T, (groups, columns, columns)
    cross: np.ndarray  # of x x'^T
    own_mean: np.ndarray  # of x', (groups, columns, 1)
    mean: np.ndarray  # of x


class SideBySide:
    """Two networks with layers of the same names, as far as some layer; closed by its context."""

    def __init__(
        self, dense: Model, pruned: Model, dataset: Dataset, samples: int, threads: int = 1, seed: int = 0
    ) -> None:
        """Starts them on at most `samples` of the data's samples, and on no more than memory is meant to hold.

        A sentence is cut to as many tokens as hold it, where the dense network answers the same over fewer.

        Raises:
            DataError: onnxruntime cannot run a sentence, or the answer to it is not finite.
        """
        samples = max(min(samples, MAX_BYTES // max(_most_kept(dense) + _most_kept(pruned), 1)), 1)
        rows = np.random.default_rng(seed).permutation(dataset.rows)[:samples].tolist()
        cuts = dict(zip(rows, _tokens_of(dense, dataset, rows), strict=True))
        attended = [dataset.attended(row) for row in rows]
        self._attended = [None if each is None else each[: cuts[row]] for row, each in zip(rows, attended, strict=True)]
        self._seed, self._threads = seed, threads
        self._limits = threadpool_limits(1)
        self._pool = ThreadPoolExecutor(threads)
        self._dense, self._pruned = (_Walk(model, dataset, cuts, self._pool) for model in (dense, pruned))

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        self._limits.restore_original_limits()

    def moments(
        self, dense: Layer, pruned: Layer, weights: Mapping[str, np.ndarray], left: Sequence[int] | None = None
    ) -> Moments:
        """Goes on to a layer of both, with these weights and constants in the pruned network.

        Args:
            left: of the dense layer's groups those that are the pruned one's; None: it has all of them.

        Raises:
            DataError: onnxruntime cannot run a sample.
            ModelError: a weight or constant is not of the model, or has not its shape.
        """
        before, after = self._dense.reach(dense.weight, {}), self._pruned.reach(pruned.weight, weights)

        def patches(reads: Sequence[np.ndarray], layer: Layer, samples: range) -> np.ndarray:
            draws = (np.random.default_rng([self._seed, sample]) for sample in samples)
            found = [
                patches_of(reads[sample], layer, rng, POSITIONS, self._attended[sample])
                for sample, rng in zip(samples, draws, strict=True)
            ]
            return np.concatenate(found, axis=1)

        def of_some(samples: range) -> tuple[tuple[np.ndarray, ...], int]:
            x, own = patches(before, dense, samples), patches(after, pruned, samples)
            x = x if left is None else x[left]
            own_mean, mean = (each.sum(axis=1, dtype=np.float64)[:, :, None] for each in (own, x))
            return (own.transpose(0, 2, 1) @ own, x.transpose(0, 2, 1) @ own, own_mean, mean), x.shape[1]

        groups, inputs = pruned.groups, pruned.inputs
        sizes = ((inputs, inputs), (dense.inputs, inputs), (inputs, 1), (dense.inputs, 1))
        sums, count = [np.zeros((groups, *size)) for size in sizes], 0
        parts = [range(first, min(first + TOGETHER, len(before))) for first in range(0, len(before), TOGETHER)]
        for found, positions in self._pool.map(of_some, parts):
            for total, each in zip(sums, found, strict=True):
                total += each
            count += positions
        return Moments(*(total / count for total in sums))

    def rows(
        self, constant: str, weights: Mapping[str, np.ndarray], channels: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Goes on to the node of both that reads a constant: of each sample what it reads, (rows, channels), attended.

        Args:
            channels: the axis that they are in what is read.

        Raises:
            DataError: onnxruntime cannot run a sample.
            ModelError: a weight or constant is not of the model, or has not its shape.
        """
        before, after = self._dense.reach(constant, {}), self._pruned.reach(constant, weights)
        for x, own, attended in zip(before, after, self._attended, strict=True):
            rows, own_rows = (np.moveaxis(each, channels, -1).reshape(-1, each.shape[channels]) for each in (x, own))
            if attended is not None and len(rows) == len(attended):
                rows, own_rows = rows[attended], own_rows[attended]
            yield rows, own_rows


class _Walk:
    """A network on its way over some samples, as far as some node."""

    def __init__(self, model: Model, dataset: Dataset, cuts: Mapping[int, int], pool: ThreadPoolExecutor) -> None:
        """At its beginning, on rows of the data that are cut to so many tokens each."""
        self._model, self._dataset, self._pool = model, dataset, pool
        self._kept: list[Tensors] = [dataset.sample(row, tokens) for row, tokens in cuts.items()]
        self._cuts = list(cuts.values())
        whole = model.apart.graph
        self._protos = {
            tokens: onnx.load_from_string(
                whole if tokens == dataset.tokens else shortened(whole, dataset.tokens, tokens)
            )
            for tokens in set(self._cuts)
        }
        self._stored = {layer.name: layer.weight for layer in model.layers}
        self._left = list(onnx.load_from_string(whole).graph.node)  # cut or not, they are the same

    def reach(self, constant: str, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Goes on up to the node that reads a constant, with these weights; what it reads first, sample by sample.

        Raises:
            DataError: onnxruntime cannot run a sample.
            ModelError: a weight or constant is not of the model, or has not its shape.
        """
        place = next(index for index, node in enumerate(self._left) if constant in node.input)
        steps, self._left = self._left[:place], self._left[place:]
        if steps:
            self._take(steps, weights)
        return [kept[self._left[0].input[0]] for kept in self._kept]

    def _take(self, steps: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray]) -> None:
        read, later = tensors_read(steps), tensors_read(self._left)
        own = self._model.replaced(
            {name: each for name, each in weights.items() if self._stored.get(name, name) in read}
        )
        arrays = {name: own.pop(name, each) for name, each in self._model.apart.arrays.items() if name in read}
        fed = [name for name in self._kept[0] if name in read]
        made = [name for node in steps for name in node.output if name in later]

        def session(tokens: int) -> InferenceSession:
            one = self._kept[self._cuts.index(tokens)]
            part = part_of(self._protos[tokens], steps, {name: one[name] for name in fed}, made, own)
            return session_of(part.SerializeToString(), arrays, optimised=False)

        sessions = {tokens: session(tokens) for tokens in self._protos}

        def step(kept: Tensors, tokens: int) -> None:
            found = run(sessions[tokens], made, {name: kept[name] for name in fed}, f"a sample of {self._dataset.name}")
            kept.update(zip(made, found, strict=True))
            for name in kept.keys() - later:  # now, not when all samples are here: two steps of all would not fit
                del kept[name]

        list(self._pool.map(step, self._kept, self._cuts))  # for what it raises


def _most_kept(model: Model) -> int:
    """Bytes at most that are kept of a sample: at a node with weights, what it and later ones read of those before."""
    graph = onnx.load_from_string(model.apart.graph).graph
    weights = {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT and item.dims}
    sizes = {item.name: _bytes(item) for item in (*graph.value_info, *graph.output)}
    last = {name: place for place, node in enumerate(graph.node) for name in node.input}
    kept, most = set[str](), 0
    for place, node in enumerate(graph.node):
        if weights.intersection(node.input):
            most = max(most, sum(sizes[name] for name in kept))
        kept = {name for name in kept.union(node.output) if last.get(name, -1) > place}
    return most


def _bytes(item: onnx.ValueInfoProto) -> int:
    kind = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
    return int(math.prod(static_shape(item) or ()) * kind.itemsize)


def _tokens_of(model: Model, dataset: Dataset, rows: Sequence[int]) -> list[int]:
    """How many tokens hold all that is real of each of these rows, of those over which the network answers the same.

    Raises:
        DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
    """
    lengths = dataset.lengths()[rows]
    other = any(values.shape[1:] != (dataset.tokens,) for values in dataset.inputs.values())
    if other or 2 * lengths.min() > dataset.tokens:
        return [dataset.tokens] * len(rows)
    fewer = [*fewer_tokens(model, dataset), dataset.tokens]
    return [min(tokens for tokens in fewer if tokens >= length) for length in lengths]
