"""The search itself: from what layers may become on a device to the plans that were found worth trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsparse.execution import Workers
from hwsparse.latency import CostModel
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.exploration import Explored, explore, explore_estimates
from hwsparse.pipeline.forecast import Forecast, require_possible
from hwsparse.pipeline.goal import Goal, shown_drop
from hwsparse.pipeline.judges import Judges
from hwsparse.pipeline.trials import evaluated_by
from hwsparse.plan import Choice
from hwsparse.search import Candidate
from hwsparse.search.database import OpenStudy
from hwsparse.search.study import SearchSettings, TrialOutcome, run_search
from hwsparse.sparsify import LayerDatabase
from hwsparse.target import Target


@dataclass(frozen=True, slots=True)
class Found:
    """What was known before the first trial, and every plan that has been tried."""

    explored: Explored
    candidates: tuple[Candidate, ...]


def find_candidates(
    model: Model,
    judges: Judges,
    database: LayerDatabase,
    choices: Sequence[Choice],
    goal: Goal,
    study: OpenStudy,
    bench: Bench,
    workers: Workers,
    scratch: Path,
    on_stage: Callable[[str, int, int], None],
    on_known: Callable[[tuple[Candidate, ...]], None] = lambda known: None,
) -> Found:
    """Measures and prunes layers, and tries plans of them.

    Args:
        database: receives every layer as every choice that pays.
        choices: what layers may become.
        scratch: a directory for what is built.
        on_known: called with the plans that have been tried, after each trial.

    Raises:
        InputError: no plan can keep to the goal's bounds; it says what can be had.
        ModelError, MeasureError, CompileError, StudyError, ExecutionError, StorageError: as their names say.
    """
    settled = None if (beginning := study.beginning) is None else beginning.choices
    explored = explore(model, database, choices, settled, bench, judges.sample, scratch, goal.within, on_stage)
    found = try_plans(model, judges, database, explored, bench.target, goal, study, workers, on_stage, on_known)
    return Found(explored, found)


def find_estimated(
    model: Model,
    judges: Judges,
    database: LayerDatabase,
    choices: Sequence[Choice],
    goal: Goal,
    study: OpenStudy,
    target: Target,
    costs: CostModel,
    workers: Workers,
    on_stage: Callable[[str, int, int], None],
    on_known: Callable[[tuple[Candidate, ...]], None] = lambda known: None,
) -> Found:
    """Prunes layers, and tries plans of them, as `find_candidates`; what layers cost is given, and nothing measured.

    Raises:
        InputError: no plan can keep to the goal's bounds; it says what can be had.
        ModelError, MeasureError, StudyError, ExecutionError, StorageError: as their names say.
    """
    settled = None if (beginning := study.beginning) is None else beginning.choices
    explored = explore_estimates(model, database, choices, settled, target, costs, on_stage)
    found = try_plans(model, judges, database, explored, target, goal, study, workers, on_stage, on_known)
    return Found(explored, found)


def try_plans(
    model: Model,
    judges: Judges,
    database: LayerDatabase,
    explored: Explored,
    target: Target,
    goal: Goal,
    study: OpenStudy,
    workers: Workers,
    on_stage: Callable[[str, int, int], None],
    on_known: Callable[[tuple[Candidate, ...]], None],
) -> tuple[Candidate, ...]:
    """Every plan that has been tried, once the trials asked for are done: as `find_candidates`, with its errors."""
    told = Forecast(model, target, explored.costs, explored.footprints)
    require_possible(explored.space, told, judges.choosing, goal.bounds)
    done = 0

    def on_trial(trial: TrialOutcome) -> None:
        nonlocal done
        done = trial.done
        on_known(trial.known)
        on_stage("search", done, trial.asked)

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
        on_wait=lambda: on_stage("search", done, goal.trials),
    )
