"""How whole networks are timed, by a runner that knows what it will say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency import MeasureFailure, Outcome, RunSettings, Workload
from hwsparse.latency.runner import BATCH
from hwsparse.pipeline.bench import PASSES, Bench
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, matmul, measurement

WORKLOAD = Workload.of(matmul(), Choice(), TARGET)


class Busy:
    """A machine whose second minute is the quiet one."""

    def __init__(self) -> None:
        self.passes = 0

    def run_many(self, directories: Mapping[str, Path], settings: RunSettings) -> dict[str, Outcome]:
        self.passes += 1
        seconds = 1.0 if self.passes == 2 else 1.5
        return {key: measurement(WORKLOAD, seconds) for key in directories}


def bench(networks: object) -> Bench:
    return cast(Bench, SimpleNamespace(target=TARGET, networks=networks))


def test_networks_that_can_take_turns_are_timed_once() -> None:
    busy = Busy()
    found = Bench.time_networks(bench(busy), {str(number): Path() for number in range(BATCH)})
    assert busy.passes == 1 and {each.quiet_s for each in found.values()} == {1.5}


def test_of_more_the_quietest_time_counts() -> None:
    busy = Busy()
    found = Bench.time_networks(bench(busy), {str(number): Path() for number in range(BATCH + 1)})
    assert busy.passes == PASSES and {each.quiet_s for each in found.values()} == {1.0}


def test_a_network_that_cannot_be_timed_is_an_error() -> None:
    failing = SimpleNamespace(
        run_many=lambda directories, settings: {key: MeasureFailure(key, "check", "wrong") for key in directories}
    )
    with pytest.raises(MeasureError, match=r"it could not be timed \(check\): wrong"):
        Bench.time_networks(bench(failing), {"it": Path()})
