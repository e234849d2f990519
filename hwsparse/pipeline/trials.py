"""Plans evaluated by workers, several at a time: what a search tries.

Knows neither who proposes plans nor what they cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import numpy as np

from hwsparse.errors import HwsparseError
from hwsparse.execution import Workers
from hwsparse.pipeline.outcome import Weights
from hwsparse.plan import Plan
from hwsparse.search.evaluation import Evaluate, Hopeless, Quality
from hwsparse.sparsify import Evaluator, QualityReport


def evaluated_by(workers: Workers, evaluator: Evaluator, weights: Weights) -> Evaluate:
    """What has a plan evaluated: it puts the plan's weights together here, and a worker judges them.

    The future raises what `weights` and `Evaluator.evaluate` raise of a plan; ExecutionError where workers were lost.

    Raises:
        DataError: the dense model cannot be evaluated.
        StorageError: there is no room for what workers share.
    """
    dense = evaluator.evaluate({}).value  # from now on known to all
    shared = workers.share(evaluator.on_one_thread())

    def evaluate(plan: Plan, at_least: float) -> Future[Quality | Hopeless]:
        try:
            pruned = dict(weights(plan))
        except HwsparseError as error:
            failed: Future[Quality | Hopeless] = Future()
            failed.set_exception(error)
            return failed
        return workers.submit(_judged, shared, pruned, at_least, dense)

    return evaluate


def _judged(
    evaluator: Evaluator, weights: Mapping[str, np.ndarray], at_least: float, dense: float
) -> QualityReport | Hopeless:
    """The task."""
    report = evaluator.evaluate(weights, at_least)
    if report.samples == len(evaluator.dataset):
        return report
    # Of few samples the loss is told better than the quality: they may be easier than the others.
    return Hopeless(dense - report.drop, report.samples, at_least)
