"""Measures a model's layers on a device in every way that it can be pruned, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from hwsparse.latency import Address, layer_settings
from hwsparse.latency.measurement import Cache
from hwsparse.model import Model
from hwsparse.pipeline.bench import Steps, open_bench
from hwsparse.pipeline.compilation import require_work
from hwsparse.pipeline.survey import choices_of
from hwsparse.pipeline.thrift import LayerTimes, every_option, measure_layers
from hwsparse.target import Target


def calibrate_model(
    model: Model,
    target: Target,
    records: Path,
    *,
    patterns: Sequence[str] = (),
    ratios: Sequence[float],
    dtypes: Sequence[str] = ("float32",),
    within: float | None = None,
    cache: Cache = "warm",
    board: Address | None = None,
    on_step: Steps = lambda done, total: None,
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> LayerTimes:
    """Measures what is not on record yet of a model's layers, dense and under every choice.

    Args:
        records: file that receives every measurement as it is made; of what it holds nothing is measured again.
        patterns: of those that the target supports; all if empty.
        ratios: of zeros, for the patterns that have no ratio of their own.
        dtypes: of weights, and of what layers read.
        within: how surely, relative, choices may be predicted from others instead of being measured.
        cache: whether a call finds its weights in the caches.
        board: where to find one, of a target that is timed on boards.
        on_step: called with the steps done and the steps in all.

    Raises:
        UnsupportedError: the target cannot be timed from here, or lacks a pattern or type.
        ModelError: the model has no prunable layers.
        MeasureError: nothing can be timed, or the records cannot be written.
    """
    require_work(model, target, board=board is not None)
    options = every_option(model, choices_of(target, patterns, ratios, dtypes))
    with open_bench(target, records, clock, board) as bench:
        return measure_layers(bench, model, options, within, on_step, layer_settings(target, cache))
