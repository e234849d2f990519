"""What a network answers to the samples of a data set, by onnxruntime, and the labels that its answers make.

Knows nothing of pruning: whose weights they are is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwsparse.data.dataset import Dataset
from hwsparse.data.runs import run, session_of
from hwsparse.errors import DataError
from hwsparse.model.tokens import shortened

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from hwsparse.model import Model
    from hwsparse.model.apart import Apart

# Lengths that are tried: a half, a fourth and an eighth of what a network takes, each on so many samples.
HALVINGS, TRIED = 3, 8
SAME = 1e-5  # relative to the largest of the answers
_TINY = 1e-12


class Respondent:
    """A network that is asked for its answers; `threads` samples at a time."""

    def __init__(self, network: Apart, name: str, threads: int = 1, fewer: Iterable[int] = ()) -> None:
        """A network, of this name in errors.

        Args:
            fewer: over how many tokens it answers too, as `fewer_tokens` tells: a sample is answered over the fewest
                that hold what is real of it.
        """
        self._network, self._name, self._threads, self._fewer = network, name, threads, sorted(fewer)
        self._sessions: dict[int, InferenceSession] = {}

    def answers(self, dataset: Dataset, rows: Iterable[int] | None = None) -> np.ndarray:
        """The first output for every row of inputs, or some of them, flat: (rows, values) float64.

        Raises:
            DataError: onnxruntime cannot load the network or run a sample, or gives a value that is not finite.
        """
        asked = np.arange(dataset.rows) if rows is None else np.array(list(rows))
        cuts = np.array([*self._fewer, dataset.tokens])[np.searchsorted(self._fewer, dataset.lengths()[asked])]
        for cut in set(cuts.tolist()) - set(self._sessions):
            graph = self._network.graph
            short = graph if cut == dataset.tokens else shortened(graph, dataset.tokens, cut)
            self._sessions[cut] = session_of(short, self._network.arrays)
        output = next(iter(self._sessions.values())).get_outputs()[0].name

        # Samples run side by side, each on one thread: faster than one sample on all.
        def answer(row: int, cut: int) -> np.ndarray:
            (found,) = run(self._sessions[cut], [output], dataset.sample(row, cut), f"sample {row} of {dataset.name}")
            return np.asarray(found, np.float64).reshape(-1)

        with ThreadPoolExecutor(self._threads) as pool:
            outputs = np.stack(list(pool.map(answer, asked.tolist(), cuts.tolist())))
        if not np.isfinite(outputs).all():
            row = asked[int(np.argwhere(~np.isfinite(outputs))[0][0])]
            raise DataError(f"{self._name} gives a value that is not finite on sample {row} of {dataset.name}")
        return outputs


def fewer_tokens(model: Model, dataset: Dataset) -> tuple[int, ...]:
    """Over how many tokens, fewer than it takes, a network answers as over all: none, where samples are no sentences.

    Seen on some of the samples. What a mask hides counts for nothing, whatever the weights: it holds for all of them.

    Raises:
        DataError: onnxruntime cannot load the network or run a sample, or gives a value that is not finite.
    """
    lengths, found, uncut = dataset.lengths(), list[int](), None
    for tokens in (dataset.tokens >> halvings for halvings in range(1, HALVINGS + 1)):
        held = np.flatnonzero(lengths <= tokens)
        if not tokens or not len(held):
            break
        by_length = held[np.argsort(lengths[held])]
        rows = by_length[np.linspace(0, len(held) - 1, min(TRIED, len(held))).astype(int)]
        uncut = uncut or Respondent(model.apart, model.name)
        whole = uncut.answers(dataset, rows)
        try:
            cut = Respondent(model.apart, model.name, fewer=(tokens,)).answers(dataset, rows)
        except DataError:  # its graph is of the length that it was made for
            break
        if cut.shape != whole.shape or np.abs(cut - whole).max() > SAME * np.abs(whole).max():
            break
        found.append(tokens)
    return tuple(found)


def labelled_by(model: Model, dataset: Dataset) -> Dataset:
    """The data set with the model's own answers as labels: its top classes, or the cosines that it gives to pairs.

    Raises:
        DataError: the samples do not fit the model, or cannot be run.
    """
    fitted = dataset.named_for(model)
    fitted.check_runs(model)
    outputs = Respondent(model.apart, model.name).answers(fitted)
    return replace(fitted, labels=outputs.argmax(axis=1) if dataset.kind == "classes" else pair_cosines(outputs))


def pair_cosines(outputs: np.ndarray) -> np.ndarray:
    """The cosines of embeddings 2i and 2i + 1: (rows, width) -> (rows / 2,)."""
    vectors = unit(outputs)
    return np.asarray((vectors[0::2] * vectors[1::2]).sum(axis=1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1; a row of zeros stays what it is."""
    values = vectors.astype(np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _TINY))
