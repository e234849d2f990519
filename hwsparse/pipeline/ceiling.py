"""The unstructured ceiling: what a plan would be worth if each layer's zeros could lie anywhere.

Mao, Han, Pool, Li, Liu, Wang, Dally, "Exploring the Granularity of Sparsity in Convolutional Neural Networks", CVPR
workshops 2017, compare structures so. Knows nothing of latency: such a plan need not run fast anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwsparse.errors import DataError, ModelError, TuningError
from hwsparse.pattern import Unstructured
from hwsparse.pipeline.bench import Steps
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.outcome import Weights
from hwsparse.plan import Choice, Plan
from hwsparse.sparsify import LayerDatabase, QualityReport, achieved_ratio

# Ratios that differ by less are as asked: short blocks at an edge do that, dropped channels in multiples do more.
SAME_RATIO = 0.005


def unstructured_plan(plan: Plan, weights: Mapping[str, np.ndarray]) -> Plan:
    """A plan with each layer's pattern unstructured, at the ratio of zeros that its weights have.

    Of rounded weights some are zero that were not pruned: their layers have the ratio that was asked for.
    """
    choices = {}
    for name, choice in plan.choices:
        if choice.is_dense:
            choices[name] = choice
            continue
        ratio = achieved_ratio(weights[name] != 0)
        asked = choice.dtype != "float32" or abs(ratio - choice.ratio) < SAME_RATIO
        choices[name] = Choice(Unstructured(), choice.ratio if asked else ratio, choice.dtype)
    return Plan.of(plan.model_digest, choices)


def find_ceiling(
    plan: Plan, database: LayerDatabase, weights: Weights, judges: Judges, on_step: Steps
) -> QualityReport | str:
    """The quality of a plan's unstructured form, made like every plan, on held-out data; why not, if it cannot be made.

    Raises:
        StorageError: the database cannot be written.
    """
    on_step(0, 1)
    loose = unstructured_plan(plan, weights(plan))
    database.build({name: [choice] for name, choice in loose.choices}, lambda stage, done, total: on_step(0, 1))
    try:
        return judges.reporting.evaluate(weights(loose))
    except (ModelError, TuningError, DataError) as error:
        return str(error)
    finally:
        on_step(1, 1)
