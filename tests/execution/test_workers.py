"""What holds of all workers: processes of this machine, a Ray cluster, and this process."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hwsparse.errors import Cancelled, DataError, ExecutionError, HwsparseError
from hwsparse.execution import Here, Workers, as_done, open_workers
from tests.execution import tasks

RAY = pytest.param(
    "local",
    id="ray",
    marks=[
        pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"),
        pytest.mark.xdist_group("ray"),
    ],
)
PROCESSES = [pytest.param(None, id="processes"), RAY]


@pytest.fixture(scope="module", params=PROCESSES)
def apart(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Workers that are other processes."""
    with open_workers(request.param) as workers:
        yield workers


@pytest.fixture(scope="module", params=[*PROCESSES, pytest.param("here", id="here")])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "here":
        yield Here()
        return
    with open_workers(request.param) as workers:
        yield workers


def test_results_are_those_of_the_calls(workers: Workers) -> None:
    assert workers.parallel >= 1
    futures = [workers.submit(tasks.double, number) for number in range(20)]
    assert [future.result() for future in futures] == [2 * number for number in range(20)]


def test_all_calls_are_made_and_no_more_ahead_than_keep_workers_busy(workers: Workers) -> None:
    begun: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for number in range(40):
            begun.append(number)
            yield (number,)

    found = as_done(workers, tasks.double, calls())
    first = next(found)
    assert len(begun) <= 2 * workers.parallel
    assert sorted([first, *found]) == [2 * number for number in range(40)]


def test_no_calls_give_no_results(workers: Workers) -> None:
    assert list(as_done(workers, tasks.double, [])) == []


def test_the_first_error_ends_all_calls(workers: Workers) -> None:
    begun: list[int] = []

    def calls() -> Iterator[tuple[str]]:
        for number in range(1000):
            begun.append(number)
            yield ("bad data",)

    with pytest.raises(DataError, match="bad data"):
        list(as_done(workers, tasks.refuse, calls()))
    assert len(begun) <= 2 * workers.parallel


def test_of_a_call_that_workers_are_lost_in_it_is_said_what_it_does(apart: Workers) -> None:
    lost = as_done(apart, tasks.die, [()], lambda: "pruning layer 'fc'")
    with pytest.raises(ExecutionError, match=r"^pruning layer 'fc': .*(lost|could not do it)"):
        list(lost)
    assert apart.submit(tasks.double, 1).result() == 2


def test_an_error_of_ours_comes_as_it_was_raised(workers: Workers) -> None:
    error = workers.submit(tasks.refuse, "sample 3 is bad").exception()
    assert type(error) is DataError and str(error) == "sample 3 is bad"
    assert workers.submit(tasks.double, 1).result() == 2


def test_a_bug_comes_with_the_place_where_it_was_raised(apart: Workers) -> None:
    error = apart.submit(tasks.stumble).exception()
    assert type(error) is KeyError and error.args == ("a bug",)
    assert "in stumble" in str(error.__cause__)


def test_an_error_that_cannot_be_read_is_told_in_words(apart: Workers) -> None:
    error = apart.submit(tasks.fail_oddly).exception()
    assert type(error) is RuntimeError and str(error) == "UnreadableError: 1 and 2"


def test_a_result_that_cannot_be_sent_is_an_error(apart: Workers) -> None:
    assert isinstance(apart.submit(tasks.give_a_function).exception(), (pickle.PicklingError, AttributeError))


def test_what_cannot_be_sent_is_an_error(apart: Workers) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        apart.submit(tasks.double, lambda: None).result()
    assert apart.submit(tasks.double, 1).result() == 2


def test_shared_values_are_resolved_and_are_not_the_workers_to_change(workers: Workers) -> None:
    array = np.arange(100_000, dtype=np.float32)
    array.setflags(write=False)
    shared = workers.share({"x": array, "other": array[:3]})
    expected = float(array.sum())
    assert [workers.submit(tasks.total, shared, more).result() for more in (0.0, 1.0)] == [expected, expected + 1]
    with pytest.raises(ValueError, match="read-only"):
        workers.submit(tasks.changed, shared).result()


def test_a_shared_value_goes_to_a_worker_once(workers: Workers) -> None:
    shared = workers.share(list(range(1000)))
    seen = list(as_done(workers, tasks.identity, [(shared,)] * 30))
    assert len(set(seen)) == len({process for process, _ in seen}) <= workers.parallel


def test_a_worker_has_one_thread(apart: Workers) -> None:
    assert apart.submit(tasks.threads).result() == "1"


def test_a_worker_that_is_killed_costs_one_more_try_and_nothing_else(apart: Workers, tmp_path: Path) -> None:
    ended = [apart.submit(tasks.double, number) for number in range(4)]
    assert [future.result() for future in ended] == [0, 2, 4, 6]
    future = apart.submit(tasks.linger, tmp_path)
    waiting = [apart.submit(tasks.double, number) for number in range(8)]
    os.kill(int(_content(tmp_path / "0")), signal.SIGKILL)
    assert future.result() == 2
    assert [each.result() for each in (*ended, *waiting)] == [0, 2, 4, 6, *range(0, 16, 2)]


def test_a_task_that_kills_every_worker_is_given_up(apart: Workers) -> None:
    with pytest.raises(ExecutionError, match=r"lost 2 times: killed by SIGKILL|could not do it: The worker died"):
        apart.submit(tasks.die).result()
    assert apart.submit(tasks.double, 4).result() == 8


@pytest.mark.parametrize("address", PROCESSES)
def test_nothing_is_left_when_it_is_closed_in_the_middle(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWSPARSE_TEST", str(tmp_path))
    with open_workers(address) as workers:
        future = workers.submit(tasks.linger, tmp_path)
        assert int(_content(tmp_path / "0")) in _marked(tmp_path)
    with pytest.raises(Cancelled):
        future.result()
    assert not _marked(tmp_path)
    with pytest.raises((RuntimeError, HwsparseError)):
        workers.submit(tasks.double, 1).result()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("address", PROCESSES)
def test_nothing_is_left_by_a_job_that_is_stopped(address: str | None, sent: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys\n"
        "from hwsparse.execution import open_workers\n"
        "from tests.execution import tasks\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"with open_workers({address!r}) as workers:\n"
        f"    workers.submit(tasks.linger, pathlib.Path({str(tmp_path)!r})).result()\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program],
        start_new_session=True,
        stderr=subprocess.PIPE,
        env={**os.environ, "HWSPARSE_TEST": str(tmp_path)},
    )
    assert int(_content(tmp_path / "0")) in _marked(tmp_path)
    os.killpg(job.pid, sent)  # as a terminal does with Ctrl-C
    _, said = job.communicate()
    assert job.returncode != 0
    assert sent == signal.SIGKILL or said.rstrip().endswith(b"KeyboardInterrupt")
    while _marked(tmp_path):  # until the time limit of the test: a cluster takes seconds to end
        time.sleep(0.1)


def _content(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()


def _marked(mark: Path) -> set[int]:
    """Processes, other than this one, that were started with the mark in their environment."""
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"HWSPARSE_TEST={mark}".encode() in environment.read_bytes().split(b"\0"):
                found.add(int(environment.parent.name))
    return found - {os.getpid()}
