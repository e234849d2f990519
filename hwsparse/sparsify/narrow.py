"""The same architecture with fewer channels and heads: what a smaller dense network is worth.

Units of channels that belong together (`model.coupling`) form families: those that the same layers make. Of each
family the same share is kept. Which of them is found by what the layers behind lose (`structured_obs`), or by their
weights alone; those are then fitted, layer after layer, to what they read in the narrower network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hwsparse.data import Dataset
from hwsparse.errors import ModelError
from hwsparse.model import Model
from hwsparse.model.channels import STAYS, Coupling
from hwsparse.model.coupling import couple, without
from hwsparse.plan import Layer
from hwsparse.sparsify.apply import pruned_model
from hwsparse.sparsify.correction import SAMPLES, fitted, named
from hwsparse.sparsify.norms import Norm, fitted_norm, in_order
from hwsparse.sparsify.statistics import MAX_COLUMNS, collect_statistics
from hwsparse.sparsify.structured_obs import Reader, removal_order
from hwsparse.sparsify.walk import SideBySide

# Of the channels of a family so many, or a multiple of it, are kept: kernels work on as many at a time.
MULTIPLE = 8


class Narrower:
    """Makes narrower networks of one model; what is missed least is found once."""

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        *,
        samples: int = SAMPLES,
        threads: int = 1,
        seed: int = 0,
        by_magnitude: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Ranks the channels and heads of a model by what they do on at most `samples` of the data's samples.

        Args:
            by_magnitude: ranks them by the weights that read them, whatever the samples: to compare with.

        Raises:
            ModelError: no channel of the model can be removed.
            DataError: onnxruntime cannot run a sample, or an input of a layer is not finite on it.
        """
        self._model, self._dataset = model, dataset
        self._samples, self._threads, self._seed = samples, threads, seed
        self._coupling = couple(model)
        found = _removable(model, self._coupling)
        reading = [layer for layer in model.layers if _reads_units(layer, self._coupling)]
        if by_magnitude:
            moments = {layer.name: np.eye(layer.inputs) for layer in reading}
        else:
            statistics = collect_statistics(model, dataset, reading, max_samples=samples, threads=threads, seed=seed)
            moments = {name: own.damped()[0] for name, own in statistics.items() if not own.apart}
        self._orders: list[tuple[Sequence[int], int]] = []
        for done, (units, multiple) in enumerate(found, 1):
            readers = [reader for layer in reading if (reader := self._reader(layer, moments, units)) is not None]
            self._orders.append((removal_order(units, readers), multiple))
            progress(done, len(found))

    def _reader(self, layer: Layer, moments: Mapping[str, np.ndarray], units: Sequence[int]) -> Reader | None:
        read = self._coupling.columns(layer)
        if layer.name not in moments or not np.isin(read, units).any():
            return None
        taps = layer.inputs // layer.weight_shape[1]
        return Reader(self._model.weight(layer.name), moments[layer.name], np.repeat(read, taps))

    def narrow(self, keep: float, progress: Callable[[int, int], None] = lambda done, total: None) -> Model:
        """The model with that share of the channels and heads of each family, fitted.

        Raises:
            ModelError: `keep` is not between 0 and 1.
            DataError: onnxruntime cannot run a sample.
        """
        return self._fitted(self.cut(self._model, keep), self._removed(keep), progress)

    def cut(self, model: Model, keep: float) -> Model:
        """A model of the same architecture without the channels and heads that `narrow` removes, not fitted.

        Raises:
            ModelError: `keep` is not between 0 and 1.
        """
        return without(model, self._coupling, self._removed(keep))

    def widened(self, narrow: Model, keep: float) -> dict[str, np.ndarray]:
        """What `narrow` gave as weights of the wide model by layer name, constants by theirs: 0 where channels went.

        With them the wide model computes what the narrow one does, unless something is normalised or averaged over
        channels that went: it would count zeros.
        """
        removed, weights = self._removed(keep), dict[str, np.ndarray]()
        for layer in self._model.layers:
            rows, columns = (
                np.flatnonzero(~removed[units(layer)]) for units in (self._coupling.rows, self._coupling.columns)
            )
            weights[layer.name] = np.zeros(layer.weight_shape, np.float32)
            weights[layer.name][np.ix_(rows, columns)] = narrow.weight(layer.name)
            own = narrow.layer(layer.name).bias
            if layer.bias is not None and own is not None:
                bias = self._model.constant(layer.bias).copy()
                bias.reshape(-1)[rows] = narrow.constant(own).reshape(-1)
                weights[layer.bias] = bias
        for norm in self._norms_left(narrow):
            weights |= {name: narrow.constant(name) for name in (norm.scale, norm.shift)}
        return weights

    def _norms_left(self, narrow: Model) -> list[Norm]:
        """The normalisations over channels that all stay."""
        kept = in_order(narrow)
        return [step for step in in_order(self._model) if isinstance(step, Norm) and step in kept]

    def _removed(self, keep: float) -> np.ndarray:
        return _removed(self._coupling, self._orders, keep)

    def _fitted(self, narrow: Model, removed: np.ndarray, progress: Callable[[int, int], None]) -> Model:
        weights: dict[str, np.ndarray] = {}
        with SideBySide(self._model, narrow, self._dataset, self._samples, self._threads, self._seed) as both:
            steps, norms = in_order(self._model), self._norms_left(narrow)
            for done, wide in enumerate(steps, 1):
                progress(done, len(steps))
                if isinstance(wide, Norm):
                    if wide in norms:
                        weights |= fitted_norm(self._model, wide, both, weights)
                    continue
                layer, stay = narrow.layer(wide.name), ~removed[self._coupling.rows(wide)]
                groups = _groups_left(wide, layer, stay)
                if groups and wide.inputs <= MAX_COLUMNS:
                    dense = self._model.weight(layer.name)[stay]
                    bias = None if layer.bias is None else narrow.constant(layer.bias)
                    moments = both.moments(wide, layer, weights, groups)
                    weights |= named(layer, *fitted(dense, bias, narrow.weight(layer.name), moments))
        return pruned_model(narrow, weights)


def narrowed_shape(model: Model, keep: float) -> Model:
    """A network of the shapes that `Narrower.narrow` gives, of any channels, unfitted: to see what it costs.

    Raises:
        ModelError: no channel of the model can be removed, or `keep` is not between 0 and 1.
    """
    coupling = couple(model)
    return without(model, coupling, _removed(coupling, _removable(model, coupling), keep))


def _removable(model: Model, coupling: Coupling) -> list[tuple[list[int], int]]:
    if not (found := families(model, coupling)):
        raise ModelError(f"model {model.name!r} has no channels that can be removed")
    return found


def _removed(coupling: Coupling, orders: Sequence[tuple[Sequence[int], int]], keep: float) -> np.ndarray:
    """What goes when that share is kept of units, of each family the first to go first: (1 + units,) bool."""
    if not 0 < keep <= 1:
        raise ModelError(f"the share of channels to keep lies between 0 and 1, not at {keep}")
    removed = np.zeros(1 + coupling.units, bool)
    for order, multiple in orders:
        left = max(round(keep * len(order) / multiple), 1) * multiple
        removed[order[: max(len(order) - left, 0)]] = True
    return removed


def families(model: Model, coupling: Coupling) -> list[tuple[list[int], int]]:
    """Units that the same layers make, in the order of the model, and the multiple to keep of each family.

    Units of several rows, heads of attention, are kept in any number.
    """
    makers: dict[int, list[str]] = defaultdict(list)
    wide: set[int] = set()
    for layer in model.layers:
        units, counts = np.unique(coupling.rows(layer), return_counts=True)
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            if unit != STAYS:
                makers[unit].append(layer.name)
                if count > 1:
                    wide.add(unit)
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for unit, layers in makers.items():
        found[tuple(layers)].append(unit)
    return [(units, 1 if wide.intersection(units) else MULTIPLE) for units in found.values()]


def _groups_left(wide: Layer, narrow: Layer, stay: np.ndarray) -> list[int]:
    """The groups of a layer that are left in the narrower one, whole; none if some lost a part of their channels.

    Args:
        stay: whether each output of the layer does, (outputs,) bool.
    """
    groups = stay.reshape(wide.groups, -1)
    left = np.flatnonzero(groups.any(axis=1))
    whole = bool(groups[left].all()) and wide.inputs == narrow.inputs
    return left.tolist() if wide.groups == 1 or (whole and len(left) == narrow.groups) else []


def _reads_units(layer: Layer, coupling: Coupling) -> bool:
    return layer.groups == 1 and layer.inputs <= MAX_COLUMNS and bool(coupling.columns(layer).any())
