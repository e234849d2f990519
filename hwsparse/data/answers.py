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

if TYPE_CHECKING:
    from hwsparse.model import Model

_TINY = 1e-12


class Respondent:
    """A network that is asked for its answers; `threads` samples at a time."""

    def __init__(self, proto: bytes, name: str, threads: int = 1) -> None:
        """An ONNX model, of this name in errors.

        Raises:
            DataError: onnxruntime cannot load it.
        """
        self._session, self._name, self._threads = session_of(proto), name, threads
        self._output = self._session.get_outputs()[0].name

    def answers(self, dataset: Dataset, rows: Iterable[int] | None = None) -> np.ndarray:
        """The first output for every row of inputs, or some of them, flat: (rows, values) float64.

        Raises:
            DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
        """

        # Samples run side by side, each on one thread: faster than one sample on all.
        def answer(row: int) -> np.ndarray:
            feeds = {key: values[row : row + 1] for key, values in dataset.inputs.items()}
            (output,) = run(self._session, [self._output], feeds, f"sample {row} of {dataset.name}")
            return np.asarray(output, np.float64).reshape(-1)

        with ThreadPoolExecutor(self._threads) as pool:
            asked = list(range(dataset.rows) if rows is None else rows)
            outputs = np.stack(list(pool.map(answer, asked)))
        if not np.isfinite(outputs).all():
            row = asked[int(np.argwhere(~np.isfinite(outputs))[0][0])]
            raise DataError(f"{self._name} gives a value that is not finite on sample {row} of {dataset.name}")
        return outputs


def labelled_by(model: Model, dataset: Dataset) -> Dataset:
    """The data set with the model's own answers as labels: its top classes, or the cosines that it gives to pairs.

    Raises:
        DataError: the samples do not fit the model, or cannot be run.
    """
    fitted = dataset.named_for(model)
    fitted.check_runs(model)
    outputs = Respondent(model.proto, model.name).answers(fitted)
    return replace(fitted, labels=outputs.argmax(axis=1) if dataset.kind == "classes" else pair_cosines(outputs))


def pair_cosines(outputs: np.ndarray) -> np.ndarray:
    """The cosines of embeddings 2i and 2i + 1: (rows, width) -> (rows / 2,)."""
    vectors = unit(outputs)
    return np.asarray((vectors[0::2] * vectors[1::2]).sum(axis=1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1; a row of zeros stays what it is."""
    values = vectors.astype(np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _TINY))
