"""What pruning one layer, and no other, does to the network's answers.

The layer's weight is an input of an onnxruntime session that holds only what depends on it; everything before is
computed once, by the dense network. So a try costs part of an inference per sample, and no new session.

Knows no patterns: weights come in as arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from hwsparse.data import Dataset
from hwsparse.data.runs import run, session_of
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.plan import Layer
from hwsparse.sparsify.loss import DIVERGENCES, LOSSES
from hwsparse.sparsify.parts import depending, part_of, tensors_made, tensors_read


@dataclass(frozen=True, slots=True)
class Harm:
    """What a change of weights does on some samples.

    `loss` is the change of the task's loss, negative if the network got better; `divergence` is how far its answers
    are from the dense network's, never negative. Both are infinite where an answer is no longer finite.
    """

    loss: float
    divergence: float


class Sensitivity:
    """One layer of a network, ready to be tried with other weights on all samples of a data set."""

    def __init__(self, model: Model, layer: Layer, dataset: Dataset) -> None:
        """Runs the dense network up to the layer.

        Raises:
            DataError: onnxruntime cannot run a sample, or the dense network's answer to one is not finite.
        """
        self._model, self._layer, self._dataset = model, layer, dataset
        proto = onnx.load_from_string(model.proto)
        self._output = proto.graph.output[0].name
        behind = depending(proto.graph, layer.weight)
        self._known = [self._inputs(sample) for sample in range(dataset.rows)]
        at_hand = {*self._known[0], *(item.name for item in proto.graph.initializer)}
        if needed := sorted(tensors_read(behind) - tensors_made(behind) - at_hand):
            before = session_of(part_of(proto, list(proto.graph.node), {}, needed).SerializeToString(), optimised=False)
            for known in self._known:
                known.update(zip(needed, run(before, needed, known, f"a sample of {self._dataset.name}"), strict=True))
        fed = {name: value for name, value in self._known[0].items() if name in tensors_read(behind)}
        self._fed = [*fed]
        weight = model.initializer(layer, model.weight(layer.name))
        after = part_of(proto, behind, fed | {layer.weight: weight}, [self._output])
        self._session = session_of(after.SerializeToString())
        self._dense = self._answers(weight)
        if not np.isfinite(self._dense).all():
            raise DataError(f"{model.name} answers a sample of {dataset.name} with a value that is not finite")
        self._loss = LOSSES[dataset.metric](self._dense, dataset.labels)

    def harm(self, weight: np.ndarray) -> Harm:
        """What this canonical weight does in the layer's place."""
        answers = self._answers(self._model.initializer(self._layer, weight))
        if not np.isfinite(answers).all():
            return Harm(math.inf, math.inf)
        loss = LOSSES[self._dataset.metric](answers, self._dataset.labels)
        return Harm(loss - self._loss, max(DIVERGENCES[self._dataset.metric](self._dense, answers), 0.0))

    def _answers(self, weight: np.ndarray) -> np.ndarray:
        rows = []
        for known in self._known:
            feeds = {name: known[name] for name in self._fed}
            feeds |= {self._layer.weight: weight}
            (answer,) = run(self._session, [self._output], feeds, f"a sample of {self._dataset.name}")
            rows.append(answer.reshape(-1))
        return np.stack(rows)

    def _inputs(self, sample: int) -> dict[str, np.ndarray]:
        return {name: values[sample : sample + 1] for name, values in self._dataset.inputs.items()}
