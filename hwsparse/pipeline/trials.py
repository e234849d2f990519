"""Plans evaluated by workers, several at a time: what a search tries.

Knows neither who proposes plans nor what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np

from hwsparse.errors import HwsparseError
from hwsparse.execution import Workers
from hwsparse.pipeline.outcome import Weights
from hwsparse.plan import Plan
from hwsparse.sparsify import Evaluator, QualityReport


def evaluated_by(workers: Workers, evaluator: Evaluator, weights: Weights) -> Callable[[Plan], Future[QualityReport]]:
    """What has a plan evaluated: it puts the plan's weights together here, and a worker judges them.

    The future raises what `weights` and `Evaluator.evaluate` raise of a plan; ExecutionError where workers were lost.

    Raises:
        StorageError: there is no room for what workers share.
    """
    shared = workers.share(evaluator.on_one_thread())

    def evaluate(plan: Plan) -> Future[QualityReport]:
        try:
            pruned = dict(weights(plan))
        except HwsparseError as error:
            failed: Future[QualityReport] = Future()
            failed.set_exception(error)
            return failed
        return workers.submit(_evaluate, shared, pruned)

    return evaluate


def _evaluate(evaluator: Evaluator, weights: Mapping[str, np.ndarray]) -> QualityReport:
    """The task."""
    return evaluator.evaluate(weights)
