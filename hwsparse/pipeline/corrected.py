"""The weights that ship: pruned layers put together, and corrected as a whole where that makes the network better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import MappingProxyType

import numpy as np

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.execution import Here, Shared, Workers
from hwsparse.model import Model
from hwsparse.pipeline.judges import Judges
from hwsparse.plan import Plan
from hwsparse.sparsify import Evaluator, LayerDatabase, QualityReport, correct
from hwsparse.sparsify.ranges import rounded_weights

_Known = tuple[Model, Dataset, Evaluator]
_Found = tuple[Mapping[str, np.ndarray], QualityReport]


class CorrectedWeights:
    """Weights of a plan as they are built: corrected, where the choosing data find them better so.

    To be called with a plan. To correct one takes a while: `begin` has several done side by side.
    """

    def __init__(self, database: LayerDatabase, model: Model, judges: Judges, threads: int, seed: int) -> None:
        """Weights from a database that holds all layers of the plans that will be asked for.

        Args:
            threads: of this process, for a plan that no worker was asked for before.
        """
        self._database, self._threads, self._seed = database, threads, seed
        self._model, self._fitting, self._choosing = model, judges.fitting, judges.choosing
        self._found: dict[Plan, Future[_Found]] = {}

    def begin(
        self, plans: Iterable[Plan], workers: Workers, uncorrected: Mapping[Plan, float] = MappingProxyType({})
    ) -> None:
        """Has workers correct plans that will be asked for.

        Args:
            uncorrected: what the choosing data find of plans without correction, as far as they were asked.

        Raises:
            PlanError, DataError, StorageError: as `LayerDatabase.weights`.
            StorageError: there is no room for what workers share.
        """
        shared = workers.share((self._model, self._fitting, self._choosing.on_one_thread()))
        for plan in dict.fromkeys(plans):
            if plan not in self._found:
                self._found[plan] = self._asked(plan, workers, shared, threads=1, worth=uncorrected.get(plan))

    def __call__(self, plan: Plan) -> Mapping[str, np.ndarray]:
        """The weights; of a plan that was asked for before the same ones.

        Raises:
            PlanError, DataError, StorageError: as `LayerDatabase.weights`.
            DataError: onnxruntime cannot run a sample, or the plain weights' answers are not finite.
            ExecutionError: workers were lost.
        """
        return self._of(plan)[0]

    def worth(self, plan: Plan) -> QualityReport:
        """What the choosing data find of the same weights, with the same errors."""
        return self._of(plan)[1]

    def _of(self, plan: Plan) -> _Found:
        if plan not in self._found:
            here = Here()
            shared = here.share((self._model, self._fitting, self._choosing))
            self._found[plan] = self._asked(plan, here, shared, self._threads)
        return self._found[plan].result()

    def _asked(
        self, plan: Plan, workers: Workers, shared: Shared[_Known], threads: int, worth: float | None = None
    ) -> Future[_Found]:
        return workers.submit(_better, shared, plan, self._database.unrounded(plan), threads, self._seed, worth)


def _better(
    known: _Known,
    plan: Plan,
    pruned: Mapping[str, np.ndarray],
    threads: int,
    seed: int,
    worth: float | None,
) -> _Found:
    """The task: weights as they are, `worth` that much, or corrected, whichever the evaluator finds better."""
    model, fitting, choosing = known
    corrected = correct(model, pruned, fitting, plan=plan, threads=threads, seed=seed)
    plain = rounded_weights(model, plan, pruned)
    if worth is None:
        worth = choosing.evaluate(plain).value
    with suppress(DataError):  # its answers are not finite
        report = choosing.evaluate(corrected)
        if report.value > worth:
            return corrected, report
    return plain, choosing.evaluate(plain)
