"""The repeats of the latency benchmark: some workloads measured again and again, in fresh processes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from hwsparse.latency import Measurement, Workload, calibrate
from hwsparse.latency.drift import AGAIN, at_usual_clock, usual_reference
from hwsparse.pipeline.bench import open_bench
from hwsparse.plan import Choice, parse_signature
from hwsparse.target import Target

REPEATED = 30  # workloads, drawn from all


def repeats(
    table: Mapping[str, Mapping[Workload, Measurement]],
    target: Target,
    count: int,
    seed: int,
    scratch: Path,
    progress: Progress,
    console: Console,
) -> dict[str, float]:
    """How far apart separate runs are, relative, in the median over workloads; and whether they know how surely.

    Of a run's 95 % interval it is asked whether it holds the median of the other runs: that of a cost model, and that
    which the run's own samples give.
    """
    every = sorted({workload for each in table.values() for workload in each}, key=lambda workload: workload.key)
    picked = np.random.default_rng(seed).choice(len(every), min(REPEATED, len(every)), replace=False)
    options: dict[str, list[Choice]] = {}
    for at in picked:
        options.setdefault(every[at].signature, []).append(every[at].choice)
    layers = [parse_signature(signature) for signature in options]
    task = progress.add_task("repeats", total=count)
    taken: dict[Workload, list[Measurement]] = {}
    for number in range(count):
        clock = partial(datetime.now, timezone.utc)
        with open_bench(target, scratch / f"repeat-{number}.sqlite", clock) as bench:
            report = calibrate(layers, options, target, bench.records, bench.layers, bench.crew, clock)
        for workload, each in report.table.items():
            taken.setdefault(workload, []).append(each)
        progress.advance(task)
    lost = [workload for workload, runs in taken.items() if len(runs) < count]
    for workload in lost:
        console.print(f"left out: {workload.key} could be measured {len(taken.pop(workload))} times only")
    usual_s = usual_reference(each for runs in taken.values() for each in runs)
    spreads, held, alone = [], [], []
    for runs in taken.values():
        times = [at_usual_clock(each, usual_s)[0] for each in runs]
        spreads.append((max(times) - min(times)) / statistics.median(times))
        for at, each in enumerate(runs):
            others = statistics.median(times[:at] + times[at + 1 :] or times)
            low, high = at_usual_clock(each, usual_s)[1]
            held.append(low <= others <= high)
            alone.append(low / (1 - AGAIN) <= others <= high / (1 + AGAIN))
    console.print(
        f"{count} runs of {len(spreads)} workloads lie {statistics.median(spreads):.1%} apart in the "
        f"median, 95 % of them at most {np.quantile(spreads, 0.95):.1%}; {statistics.mean(held):.0%} of a run's "
        f"95 % intervals hold the median of the others, and {statistics.mean(alone):.0%} of those by its samples alone"
    )
    return {"repeat_spread": statistics.median(spreads), "repeat_coverage95": 100 * statistics.mean(held)}
