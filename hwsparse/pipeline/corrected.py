"""The weights that ship: pruned layers put together, and corrected as a whole where that makes the network better."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future

import numpy as np

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.execution import Here, Shared, Workers
from hwsparse.model import Model
from hwsparse.pipeline.judges import Judges
from hwsparse.plan import Plan
from hwsparse.sparsify import Evaluator, LayerDatabase, correct

_Known = tuple[Model, Dataset, Evaluator]


class CorrectedWeights:
    """Weights of a plan as they are built: corrected, where the choosing data find them better so.

    To be called with a plan. To correct one takes a while: `begin` has several done side by side.
    """

    def __init__(self, database: LayerDatabase, model: Model, judges: Judges, threads: int, seed: int) -> None:
        """Weights from a database that holds all layers of the plans that will be asked for."""
        self._database, self._threads, self._seed = database, threads, seed
        self._known_to_all = model, judges.fitting, judges.choosing
        self._found: dict[Plan, Future[Mapping[str, np.ndarray]]] = {}

    def begin(self, plans: Iterable[Plan], workers: Workers) -> None:
        """Has workers correct plans that will be asked for.

        Raises:
            PlanError, DataError, StorageError: as `LayerDatabase.weights`.
            StorageError: there is no room for what workers share.
        """
        shared = workers.share(self._known_to_all)
        threads = max(self._threads // workers.parallel, 1)
        for plan in set(plans).difference(self._found):
            self._found[plan] = self._asked(plan, workers, shared, threads)

    def __call__(self, plan: Plan) -> Mapping[str, np.ndarray]:
        """The weights; of a plan that was asked for before the same ones.

        Raises:
            PlanError, DataError, StorageError: as `LayerDatabase.weights`.
            DataError: onnxruntime cannot run a sample, or the plain weights' answers are not finite.
            ExecutionError: workers were lost.
        """
        if plan not in self._found:
            here = Here()
            self._found[plan] = self._asked(plan, here, here.share(self._known_to_all), self._threads)
        return self._found[plan].result()

    def _asked(
        self, plan: Plan, workers: Workers, shared: Shared[_Known], threads: int
    ) -> Future[Mapping[str, np.ndarray]]:
        plain = self._database.weights(plan)
        return workers.submit(_better, shared, plain, plan.in_bytes, threads, self._seed)


def _better(
    known: _Known,
    plain: Mapping[str, np.ndarray],
    in_bytes: Collection[str],
    threads: int,
    seed: int,
) -> Mapping[str, np.ndarray]:
    """The task: weights as they are or corrected, whichever the evaluator finds better."""
    model, fitting, choosing = known
    corrected = correct(model, plain, fitting, in_bytes=in_bytes, threads=threads, seed=seed)
    worth = choosing.evaluate(plain).value
    try:
        better = choosing.evaluate(corrected).value > worth
    except DataError:  # its answers are not finite
        better = False
    return corrected if better else plain
