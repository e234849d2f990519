"""Contenders in turns, each in a process of its own."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks.turns import Contender, Timing, time_in_turns, versions
from hwsparse.errors import MeasureError
from hwsparse.latency import MeasureFailure
from hwsparse.latency.process import Interpreter, Worker
from tests.latency.fake_library import LOADER, write


def contender(directory: Path, interpreter: Interpreter | None = None, **fake: object) -> Contender:
    return Contender(directory.name, LOADER, write(directory, **{"error": 0.0, **fake}), 1, 1e-4, interpreter)


def test_contenders_take_turns_each_in_its_own_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = ("a", "b", "c")
    contenders = [contender(tmp_path / name, seconds=2e-3, log=str(log), error=1e-5) for name in names]
    results = time_in_turns(contenders, rounds=3, turn_samples=2, warmup_s=0)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [name for name, repeats, _, _ in lines if repeats == 2] == list(names) * 3
    assert len({state["pid"] for _, _, _, state in lines}) == 3
    assert len({tuple(state["cpus"]) for _, _, _, state in lines}) == 1
    assert results == dict.fromkeys(names, Timing(1e-5, ((2e-3, 2e-3),) * 3))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_paused_worker_stands_still_until_it_is_resumed(tmp_path: Path) -> None:
    worker = Worker(LOADER, 1)
    try:
        worker.pause()
        status = Path(f"/proc/{worker._process.pid}/status")
        while "State:\tT (stopped)" not in status.read_text():
            pass
        worker.resume()
        worker.ask(10, do="load", slot=0, directory=str(write(tmp_path / "a")))
        worker.pause()
    finally:
        worker.close()
    assert not status.exists()


def test_a_failure_is_a_value_and_costs_the_others_nothing(tmp_path: Path) -> None:
    nowhere = Interpreter(str(tmp_path / "python"), ())
    contenders = [
        contender(tmp_path / "fine"),
        contender(tmp_path / "unloadable", load="raise"),
        contender(tmp_path / "crashing", time="exit"),
        contender(tmp_path / "refusing", time="raise"),
        contender(tmp_path / "nowhere", nowhere),
        Contender("unknown", "no.such:Runtime", tmp_path, 1, 1e-4),
    ]
    results = time_in_turns(contenders, rounds=2, warmup_s=0)
    assert list(results) == [each.name for each in contenders]
    reasons = {name: (r.stage, r.reason) for name, r in results.items() if isinstance(r, MeasureFailure)}
    assert set(reasons) == {"unloadable", "crashing", "refusing", "nowhere", "unknown"}
    assert reasons["unloadable"] == ("load", "RuntimeError: no such kernel")
    assert reasons["crashing"] == ("run", "ended with exit status 3; it printed: cannot go on")
    assert reasons["refusing"] == ("run", "RuntimeError: no such kernel")
    assert reasons["nowhere"][1].startswith("cannot start the process")
    assert "No module named 'no'" in reasons["unknown"][1]


@pytest.mark.parametrize("error", [2e-4, math.inf, math.nan])
def test_wrong_outputs_stop_everything_before_it_is_timed(tmp_path: Path, error: float) -> None:
    log = tmp_path / "log"
    contenders = [contender(tmp_path / "a", log=str(log)), contender(tmp_path / "b", error=error, log=str(log))]
    with pytest.raises(MeasureError, match=r"b: outputs differ from onnxruntime's .* more than 0\.0001: not timed"):
        time_in_turns(contenders)
    assert not log.exists()


def test_drift_compares_thirds_and_not_single_samples() -> None:
    steady = Timing(0, ((1.0, 9.0, 1.0),) * 6)
    assert (steady.drift, steady.median_s, steady.minimum_s) == (0, 1, 1)
    assert Timing(0, ((1.0,),) * 4 + ((1.5,),) * 2).drift == pytest.approx(0.5)
    assert Timing(0, ((2.0,),)).drift == 0


def test_versions_are_those_of_the_named_python(tmp_path: Path) -> None:
    assert versions(sys.executable, ["pytest"]) == {"pytest": pytest.__version__}
    with pytest.raises(MeasureError, match=r"is no Python that has pytest and no-such: .*no-such"):
        versions(sys.executable, ["pytest", "no-such"])
    with pytest.raises(MeasureError, match="cannot be started"):
        versions(str(tmp_path / "python"), ["numpy"])
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 4\n")
    script.chmod(0o755)
    with pytest.raises(MeasureError, match="is no Python that has numpy: exit status 4"):
        versions(str(script), ["numpy"])
