"""The search itself: from what layers may become on a device to the plans that were tried."""

from __future__ import annotations

from collections.abc import Callable

from hwsparse.execution import Workers
from hwsparse.model import Model
from hwsparse.pipeline.exploration import Explored
from hwsparse.pipeline.forecast import Forecast, require_possible
from hwsparse.pipeline.goal import Goal, shown_drop
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.trials import evaluated_by
from hwsparse.search import Candidate
from hwsparse.search.open_study import OpenStudy
from hwsparse.search.study import SearchSettings, TrialOutcome, run_search
from hwsparse.sparsify import LayerDatabase
from hwsparse.target import Target


def find_candidates(
    model: Model,
    judges: Judges,
    database: LayerDatabase,
    explored: Explored,
    target: Target,
    goal: Goal,
    study: OpenStudy,
    workers: Workers,
    on_stage: Callable[[str, int, int], None],
    on_known: Callable[[tuple[Candidate, ...]], None] = lambda known: None,
) -> tuple[Candidate, ...]:
    """Tries plans until as many trials as were asked for are done: every plan that has been tried.

    Args:
        database: has every layer as every choice that was explored.
        on_known: called with the plans that have been tried, after each trial.

    Raises:
        InputError: no plan can keep to the goal's bounds; it says what can be had.
        ModelError, MeasureError, StudyError, ExecutionError, StorageError: as their names say.
    """
    told = Forecast(model, target, explored.costs, explored.footprints)
    require_possible(explored.space, told, judges.choosing, goal.bounds)

    def on_trial(trial: TrialOutcome) -> None:
        on_known(trial.known)
        on_stage("search", trial.done, trial.asked)

    return run_search(
        study,
        explored.space,
        evaluated_by(workers, judges.choosing, database.weights),
        told.latency,
        SearchSettings(
            goal.trials,
            goal.seed,
            goal.sampler,
            worst_drop=shown_drop(goal.max_drop),
            bounds=goal.bounds,
            parallel=workers.parallel,
        ),
        predict_size=told.size,
        on_trial=on_trial,
        on_wait=lambda done: on_stage("search", done, goal.trials),
    )
