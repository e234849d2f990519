"""A labelled evaluation set, checked when it is made.

Knows arrays only: no files, no runtime. Of a model it looks at the names, shapes and types of its inputs and
outputs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hwsparse.errors import DataError
from hwsparse.metric import METRICS, ROWS_PER_LABEL, Kind

if TYPE_CHECKING:
    from hwsparse.model import Model

# The input that tells padding from tokens.
ATTENTION_MASK = "attention_mask"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples with their labels.

    `inputs[name][i]` is one sample: the network's input without its leading batch axis, so that
    `inputs[name][i : i + 1]` can be fed. Where the metric is of pairs, a label is how alike two samples are, and rows
    2i and 2i + 1 are the two members of pair i.
    """

    name: str
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray  # of classes: (n,) int64 indices; of pairs: (n,) float64 scores
    metric: str = "top1"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise DataError(f"data set {self.name!r}: metric {self.metric!r} is not one of {', '.join(METRICS)}")
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.size == 0 or not self.inputs:
            what = f"has labels of shape {labels.shape}, not one axis"
            if not self.inputs:
                what = "holds no array for an input"
            elif labels.size == 0:
                what = "is empty"
            raise DataError(f"data set {self.name!r} {what}")
        rows = labels.size * self.rows_per_label
        for key, array in self.inputs.items():
            if array.ndim == 0 or len(array) != rows:
                found = len(array) if array.ndim else "no"
                raise DataError(
                    f"data set {self.name!r}: {labels.size} labels need {rows} rows, but input {key!r} has {found}"
                    + ("; labels of classes are integers" if labels.dtype.kind == "f" and found == labels.size else "")
                )
            if array.dtype.kind not in "biuf":
                raise DataError(f"data set {self.name!r}: input {key!r} holds {array.dtype}, not numbers")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"data set {self.name!r}: input {key!r} holds values that are not finite")
        object.__setattr__(self, "labels", _frozen(self._checked(labels)))
        object.__setattr__(self, "inputs", {key: _frozen(array) for key, array in self.inputs.items()})

    def _checked(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
            raise DataError(f"data set {self.name!r}: labels must be finite numbers")
        if self.kind == "pairs":
            return labels.astype(np.float64)
        if labels.dtype.kind == "f" or labels.min() < 0:
            raise DataError(f"data set {self.name!r}: {self.metric} needs class indices, integers from 0 on, as labels")
        return labels.astype(np.int64)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in self.inputs.items())
        return f"Dataset({self.name!r}, {len(self)} labels, {self.metric}, {shapes})"

    def __len__(self) -> int:
        """Number of labels."""
        return int(self.labels.size)

    @property
    def kind(self) -> Kind:
        """What the metric is of."""
        return METRICS[self.metric].kind

    @property
    def rows_per_label(self) -> int:
        """Rows of every input that one label speaks of: 2 for pairs, else 1."""
        return ROWS_PER_LABEL[self.kind]

    @property
    def rows(self) -> int:
        """Rows of every input."""
        return len(self) * self.rows_per_label

    @property
    def digest(self) -> str:
        """sha256, in hexadecimal, of the metric, the samples and the labels; the name does not count."""
        digest = hashlib.sha256(self.metric.encode())
        for key, array in (*sorted(self.inputs.items()), ("", self.labels)):
            digest.update(f"{key} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def attended(self, row: int) -> np.ndarray | None:
        """Which tokens of a row are real, by its attention mask; None where there is none, or it leaves nothing."""
        mask = self.inputs.get(ATTENTION_MASK)
        real = None if mask is None or mask.ndim != 2 else mask[row] != 0
        return real if real is not None and real.any() else None

    @property
    def tokens(self) -> int:
        """How many tokens a sample has, padding included; 0 where there is no attention mask."""
        mask = self.inputs.get(ATTENTION_MASK)
        return 0 if mask is None or mask.ndim != 2 else mask.shape[1]

    def lengths(self) -> np.ndarray:
        """Of each row the tokens up to the last that is real: (rows,); all, where no mask tells."""
        if not self.tokens:
            return np.zeros(self.rows, np.int64)
        real = self.inputs[ATTENTION_MASK] != 0
        return np.where(real.any(axis=1), self.tokens - real[:, ::-1].argmax(axis=1), self.tokens)

    def sample(self, row: int, tokens: int) -> dict[str, np.ndarray]:
        """One row, as it can be fed; of inputs that have a value for each token, the first so many."""
        return {
            name: values[row : row + 1, :tokens] if values.shape[1:] == (self.tokens,) else values[row : row + 1]
            for name, values in self.inputs.items()
        }

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The labels at `indices`, in that order, with their rows."""
        chosen = np.asarray(indices, dtype=np.int64)
        step = self.rows_per_label
        rows = (chosen[:, None] * step + np.arange(step)).ravel()
        return replace(
            self, inputs={key: array[rows] for key, array in self.inputs.items()}, labels=self.labels[chosen]
        )

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Two disjoint sets, (calibration, held out), that together are this one; as `parted` tells."""
        first, second = self.parted(fraction, seed)
        return self.subset(first), self.subset(second)

    def parted(self, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of labels in two parts, calibration and held out, in order.

        Calibration takes `fraction` of the labels, never none and never all. Every class gives its share, to within
        one sample. But samples that are the same, whatever their labels, all go where the first of them goes.

        Raises:
            DataError: `fraction` is not between 0 and 1, there is only one label, or all samples are the same.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the calibration fraction must lie between 0 and 1, not {fraction}")
        if len(self) < 2:
            raise DataError(f"data set {self.name!r} has one label: it cannot be split")
        rng = np.random.default_rng(seed)
        classes = self.labels if self.kind == "classes" else np.zeros(len(self), dtype=np.int64)
        # Within each class the shuffled samples get evenly spaced places in [0, 1); a cut anywhere is then fair to all.
        place = np.empty(len(self))
        for label in np.unique(classes):
            members = rng.permutation(np.flatnonzero(classes == label))
            place[members] = (np.arange(members.size) + rng.random()) / members.size
        order = np.argsort(place, kind="stable")
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        contents = self.contents()
        first: dict[bytes, int] = {}
        for rank, index in enumerate(order):
            first.setdefault(contents[index], rank)
        if len(first) == 1:
            raise DataError(f"data set {self.name!r}: all samples are the same, so that none can be held out")
        ranks = np.array([first[contents[index]] for index in order])
        held_out = ranks >= min(count, ranks.max())
        return np.sort(order[~held_out]), np.sort(order[held_out])

    def contents(self) -> list[bytes]:
        """A digest of what belongs to each label, but for the label itself."""
        arrays = [array.reshape(len(self), -1) for _, array in sorted(self.inputs.items())]
        return [
            hashlib.blake2b(b"".join(array[index].tobytes() for array in arrays), digest_size=16).digest()
            for index in range(len(self))
        ]

    def for_model(self, model: Model) -> Dataset:
        """This set under the model's input name, where both have a single input; checked to fit.

        Raises:
            DataError: it does not fit.
        """
        fitted = self.named_for(model)
        fitted.check_fits(model)
        return fitted

    def named_for(self, model: Model) -> Dataset:
        """This set under the model's input name, where both have a single input."""
        if len(self.inputs) == len(model.inputs) == 1:
            return replace(self, inputs={model.inputs[0].name: next(iter(self.inputs.values()))})
        return self

    def under(self, what: str, inputs: Mapping[str, np.ndarray]) -> Dataset:
        """The same samples, with the same labels, from other inputs: as they are after `what` was done to them."""
        renamed = dict(zip(self.inputs, inputs.values(), strict=True))
        return replace(self, name=f"{self.name} ({what})", inputs=renamed)

    def check_fits(self, model: Model) -> None:
        """Checks that the model can be evaluated on this set.

        Raises:
            DataError: as `check_runs`; or all labels are equal, so that they measure nothing.
        """
        self.check_runs(model)
        if np.all(self.labels == self.labels[0]):
            raise DataError(
                f"data set {self.name!r}: all labels are {self.labels[0]}; at least two different ones are needed"
            )

    def check_runs(self, model: Model) -> None:
        """Checks that the model takes these samples, and gives what the metric judges.

        Raises:
            DataError: names, shapes or types differ; the output is not what the metric judges; or a label exceeds the
                model's classes.
        """
        specs = {spec.name: spec for spec in model.inputs}
        if set(specs) != set(self.inputs):
            raise DataError(
                f"data set {self.name!r} has inputs {_listed(self.inputs)}, "
                f"but model {model.name!r} takes {_listed(specs)}"
            )
        for key, array in self.inputs.items():
            spec = specs[key]
            wanted = f"{spec.dtype}{list(spec.shape)}"
            if not spec.shape or spec.shape[0] != 1:
                raise DataError(
                    f"model {model.name!r}: quality is measured one sample at a time, but input {key!r} is {wanted}"
                )
            if array.shape[1:] != spec.shape[1:] or array.dtype.name != spec.dtype:
                found = f"{array.dtype.name}{[1, *array.shape[1:]]}"
                raise DataError(
                    f"data set {self.name!r}: a sample of {key!r} is {found}, but model {model.name!r} takes {wanted}"
                )
        self._check_output(model)

    def _check_output(self, model: Model) -> None:
        output = model.outputs[0]
        described = f"output {output.name!r} of model {model.name!r}"
        classes = math.prod(output.shape)
        if self.kind == "pairs":
            if len(output.shape) != 2 or output.shape[0] != 1:
                raise DataError(
                    f"{self.metric} needs one embedding per sentence, [1, width], but {described} has shape "
                    f"{list(output.shape)}: pool the tokens within the model"
                )
        elif classes != max(output.shape, default=1):
            raise DataError(f"{self.metric} needs one score per class, but {described} has shape {list(output.shape)}")
        elif (largest := int(self.labels.max())) >= classes:
            raise DataError(
                f"data set {self.name!r} has label {largest}, but {described} has {classes} classes, 0 to {classes - 1}"
            )


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
