"""How whole networks are timed, by a runner that knows what it will say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hwsparse.artifact.manifest import NOISY
from hwsparse.errors import MeasureError
from hwsparse.latency import MeasureFailure, Outcome, RunSettings, Workload
from hwsparse.latency.runner import BATCH, ProcessRunner
from hwsparse.pipeline.bench import NETWORK_PATIENCE_S, PASSES, ROUGH_PATIENCE_S, Bench
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, matmul, measurement
from tests.latency.test_cost_model import model

WORKLOAD = Workload.of(matmul(), Choice(), TARGET)
NOTHING: Any = None
IDLE = Bench(TARGET, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


class Busy:
    """A machine whose second minute is the quiet one; its CPU is shared in the first."""

    def __init__(self) -> None:
        self.passes, self.patience_s = 0, 0.0

    def run_many(
        self, directories: Mapping[str, Path], settings: RunSettings, *, patience_s: float
    ) -> dict[str, Outcome]:
        assert settings.precision == NOISY
        self.passes, self.patience_s = self.passes + 1, patience_s
        seconds = 1.0 if self.passes == 2 else 1.5
        share = 0.5 if self.passes == 1 else 1.0
        return {key: measurement(WORKLOAD, seconds, cpu_share=share) for key in directories}


def bench(networks: object) -> Bench:
    return replace(IDLE, networks=cast(ProcessRunner, networks), shares=[])


def test_networks_that_can_take_turns_are_timed_once() -> None:
    busy = Busy()
    found = bench(busy).time_networks({str(number): Path() for number in range(BATCH)}, ROUGH_PATIENCE_S)
    assert busy.patience_s == ROUGH_PATIENCE_S
    assert busy.passes == 1 and {each.quiet_s for each in found.values()} == {1.5}


def test_of_more_the_quietest_time_counts() -> None:
    busy = Busy()
    timing = bench(busy)
    found = timing.time_networks({str(number): Path() for number in range(BATCH + 1)})
    assert timing.cpu_share == 0.5
    assert busy.patience_s == NETWORK_PATIENCE_S
    assert busy.passes == PASSES and {each.quiet_s for each in found.values()} == {1.0}


def test_a_network_that_cannot_be_timed_is_an_error() -> None:
    failing = SimpleNamespace(
        run_many=lambda directories, settings, patience_s: {
            key: MeasureFailure(key, "check", "wrong") for key in directories
        }
    )
    with pytest.raises(MeasureError, match=r"it could not be timed \(check\): wrong"):
        bench(failing).time_networks({"it": Path()})


def test_layers_measured_beside_others_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = iter([0.7, 0.9])
    monkeypatch.setattr("hwsparse.pipeline.bench.calibrate", lambda *_, **__: SimpleNamespace(cpu_share=next(reports)))
    timing = bench(None)
    assert timing.cpu_share == 1.0
    for _ in range(2):
        timing.calibrate(model(matmul()), {}, lambda done, total: None)
    assert timing.cpu_share == 0.7
