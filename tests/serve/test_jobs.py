from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsparse.errors import FullError, InputError, ServiceError, UnknownNameError, UnsupportedError
from hwsparse.serve.jobfiles import WORK, JobRequest
from hwsparse.serve.jobs import Jobs
from hwsparse.serve.operation import Budget, Operation, OperationState
from hwsparse.serve.room import Room
from hwsparse.store import ArtifactStore
from tests.serve.conftest import COMMAND
from tests.serve.fake_worker import front

StartJobs = Callable[..., Jobs]


def request_for(what: str, seed: int = 0, store: str = "") -> JobRequest:
    return JobRequest(
        kind="optimize",
        model_path="/nowhere/model.onnx",
        model_name=what,
        model_sha256="ab" * 32,
        shapes=(("x", (1, 3)),),
        target="tiny",
        dataset_path="/nowhere/data.npz",
        dataset_name="data",
        seed=seed,
        store=store,
        budget=Budget(trials=3),
    )


@pytest.fixture
def start_jobs(tmp_path: Path) -> Iterator[StartJobs]:
    started: list[Jobs] = []
    store = ArtifactStore(tmp_path / "store")

    def start(**changes: object) -> Jobs:
        settings = {"command": COMMAND, "grace_s": 5.0, **changes}
        jobs = Jobs(tmp_path / "jobs", store=store, room=Room(tmp_path, 1 << 30), **settings)  # type: ignore[arg-type]
        jobs.start()
        started.append(jobs)
        return jobs

    yield start
    for jobs in started:
        jobs.stop()


@pytest.fixture
def jobs(start_jobs: StartJobs) -> Jobs:
    return start_jobs()


@pytest.fixture
def run(jobs: Jobs, tmp_path: Path) -> Callable[[str], Operation]:
    def run(what: str) -> Operation:
        name = jobs.submit(request_for(what, store=str(tmp_path / "store"))).name
        return list(jobs.watch(name))[-1]

    return run


def reach(jobs: Jobs, name: str, stage: str) -> Operation:
    """Waits until the job has said that it is at `stage`."""
    for operation in jobs.watch(name):
        if operation.progress.stage == stage:
            return operation
    raise AssertionError(f"never at {stage}: {operation}")


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_dead(pid: int) -> None:
    for _ in range(1000):
        if not is_alive(pid):
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"process {pid} lives on")


def test_a_job_runs_to_its_result(jobs: Jobs, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    submitted = jobs.submit(request_for("good", store=store.location))
    assert submitted.state is OperationState.QUEUED
    seen = list(jobs.watch(submitted.name))
    last = seen[-1]
    assert last.state is OperationState.SUCCEEDED
    assert last.artifacts == store.list()
    assert last.progress.stage == "done"
    assert last.progress.front == front(3)
    assert last.created_at <= (last.started_at or 0) <= (last.finished_at or 0)
    fractions = [operation.progress.fraction for operation in seen]
    assert fractions == sorted(fractions)
    assert jobs.get(submitted.name) == last
    assert jobs.front(submitted.name) == (front(3), True)
    assert list(jobs.watch(submitted.name)) == [last]


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("refuse", "ModelError", "node 'x': an operator that nobody knows"),
        ("bug", "InternalError", r"the worker failed unexpectedly \(KeyError\)$"),
        ("silent", "ServiceError", "ended with exit status 3 and left no result"),
        ("crash", "ServiceError", "was killed by SIGSEGV and left no result"),
        ("garbage", "ServiceError", "progress.jsonl: misses 'fraction'"),
        ("liar", "ArtifactError", "names the artifact 000.*, which is not in the store"),
    ],
)
def test_a_job_that_fails_says_why(run: Callable[[str], Operation], what: str, kind: str, said: str) -> None:
    operation = run(what)
    assert operation.state is OperationState.FAILED
    assert operation.error is not None
    assert operation.error.kind == kind
    assert re.search(said, operation.error.message), operation.error.message


def test_a_report_that_cannot_be_read_fails_its_job(start_jobs: StartJobs, tmp_path: Path) -> None:
    jobs = start_jobs(grace_s=0.0)
    last = list(jobs.watch(jobs.submit(request_for("unreadable")).name))[-1]
    assert last.error is not None
    assert last.error.message == "progress.jsonl: cannot be read: Is a directory"


def test_what_only_the_work_needed_is_removed(start_jobs: StartJobs, tmp_path: Path) -> None:
    jobs = start_jobs()
    for what in ("late-crash", "refuse", "wait"):
        name = jobs.submit(request_for(what)).name
        for operation in jobs.watch(name):
            if not operation.state.done and operation.progress.stage == "waiting":
                assert (tmp_path / "jobs" / name / WORK).is_dir()
                jobs.cancel(name)
        assert not (tmp_path / "jobs" / name / WORK).exists()
        assert (tmp_path / "jobs" / name / "request.json").exists()
    killed = tmp_path / "jobs" / jobs.submit(request_for("wait")).name
    reach(jobs, killed.name, "waiting")
    jobs.stop()
    assert not (killed / WORK).exists()


def test_only_so_many_jobs_wait(start_jobs: StartJobs) -> None:
    jobs = start_jobs(max_queued=2)
    running = jobs.submit(request_for("wait")).name
    reach(jobs, running, "waiting")
    waiting = jobs.submit(request_for("late-crash"), "first")
    jobs.submit(request_for("late-crash"))
    with pytest.raises(FullError, match="2 jobs wait on this server, as many as may"):
        jobs.submit(request_for("late-crash"))
    assert jobs.submit(request_for("late-crash"), "first") == waiting  # no new job
    jobs.cancel(running)
    list(jobs.watch(waiting.name))
    jobs.submit(request_for("late-crash"))


def test_a_crash_after_the_result_takes_nothing_away(run: Callable[[str], Operation]) -> None:
    assert run("late-crash").state is OperationState.SUCCEEDED


def test_a_worker_that_cannot_be_started_fails_its_job(start_jobs: StartJobs) -> None:
    jobs = start_jobs(command=("/nonexistent/worker",))
    last = list(jobs.watch(jobs.submit(request_for("good")).name))[-1]
    assert last.state is OperationState.FAILED
    assert last.error is not None
    assert last.error.message == "cannot start a worker with worker: No such file or directory"


def test_a_killed_worker_fails_its_job_and_leaves_no_process(jobs: Jobs, tmp_path: Path) -> None:
    name = jobs.submit(request_for("wait")).name
    reach(jobs, name, "waiting")
    leader, child = map(int, (tmp_path / "jobs" / name / "pids").read_text().split())
    os.kill(leader, signal.SIGKILL)
    last = list(jobs.watch(name))[-1]
    assert last.state is OperationState.FAILED
    assert last.error is not None
    assert "was killed by SIGKILL" in last.error.message
    wait_until_dead(child)


def test_a_running_job_is_cancelled_with_its_whole_group(jobs: Jobs, tmp_path: Path) -> None:
    name = jobs.submit(request_for("wait")).name
    reach(jobs, name, "waiting")
    assert jobs.front(name) == (front(1), False)
    pids = list(map(int, (tmp_path / "jobs" / name / "pids").read_text().split()))
    assert not jobs.cancel(name).state.done
    last = list(jobs.watch(name))[-1]
    assert last.state is OperationState.CANCELLED
    assert last.progress.front == front(1)
    for pid in pids:
        wait_until_dead(pid)
    assert jobs.cancel(name) == last


def test_a_worker_that_will_not_end_is_killed(start_jobs: StartJobs) -> None:
    jobs = start_jobs(grace_s=0.0)
    name = jobs.submit(request_for("stubborn")).name
    reach(jobs, name, "waiting")
    jobs.cancel(name)
    assert list(jobs.watch(name))[-1].state is OperationState.CANCELLED


def test_one_job_runs_at_a_time_in_the_order_they_came(jobs: Jobs, tmp_path: Path) -> None:
    first, second, third = (jobs.submit(request_for(w)).name for w in ("wait", "late-crash", "late-crash"))
    reach(jobs, first, "waiting")
    assert jobs.get(second).state is jobs.get(third).state is OperationState.QUEUED
    assert jobs.cancel(third).state is OperationState.CANCELLED
    assert not (tmp_path / "jobs" / third / "progress.jsonl").exists()
    jobs.cancel(first)
    assert list(jobs.watch(second))[-1].state is OperationState.SUCCEEDED


def test_as_many_run_as_are_allowed(start_jobs: StartJobs) -> None:
    jobs = start_jobs(max_running=2)
    names = [jobs.submit(request_for("wait", seed)).name for seed in (1, 2)]
    for name in names:
        reach(jobs, name, "waiting")
    assert [jobs.get(name).state for name in names] == [OperationState.RUNNING] * 2


def test_a_request_id_is_done_once(jobs: Jobs) -> None:
    first = jobs.submit(request_for("late-crash"), "mine")
    assert jobs.submit(request_for("late-crash"), "mine").name == first.name
    last = list(jobs.watch(first.name))[-1]
    assert jobs.submit(request_for("late-crash"), "mine") == last
    assert jobs.submit(request_for("late-crash"), "other").name != first.name
    assert jobs.submit(request_for("late-crash")).name != jobs.submit(request_for("late-crash")).name
    with pytest.raises(InputError, match="'mine' was used for another request"):
        jobs.submit(request_for("late-crash", seed=1), "mine")


def test_the_same_request_id_from_many_callers_at_once_is_one_job(jobs: Jobs) -> None:
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(jobs.submit(request_for("late-crash"), "one").name))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 8
    assert len(set(names)) == 1


def test_pages_hold_every_job_once_newest_first(jobs: Jobs) -> None:
    names = [jobs.submit(request_for("late-crash", seed)).name for seed in range(5)]
    found: list[str] = []
    before = None
    while True:
        page, before = jobs.page(2, before)
        found += [operation.name for operation in page]
        if before is None:
            break
    assert found == names[::-1]


def test_an_unknown_name_is_said_so(jobs: Jobs) -> None:
    for use in (jobs.get, jobs.cancel, jobs.front, jobs.report, lambda name: list(jobs.watch(name))):
        with pytest.raises(UnknownNameError, match="no operation 'nobody'"):
            use("nobody")


def test_a_watcher_that_goes_away_is_let_go(jobs: Jobs) -> None:
    name = jobs.submit(request_for("wait")).name
    reach(jobs, name, "waiting")
    with pytest.raises(UnsupportedError, match="has no report: it is running"):
        jobs.report(name)
    asked = iter([True, True, False])
    assert len(list(jobs.watch(name, lambda: next(asked)))) == 1


def test_stopping_ends_workers_and_keeps_the_queue(start_jobs: StartJobs, tmp_path: Path) -> None:
    jobs = start_jobs()
    running, queued = (jobs.submit(request_for(w)).name for w in ("wait", "late-crash"))
    reach(jobs, running, "waiting")
    leader, child = map(int, (tmp_path / "jobs" / running / "pids").read_text().split())
    watcher = jobs.watch(queued)
    assert next(watcher).state is OperationState.QUEUED
    jobs.stop()
    with pytest.raises(ServiceError, match="the server is stopping"):
        next(watcher)
    with pytest.raises(ServiceError, match="the server is stopping"):
        jobs.submit(request_for("late-crash"))
    assert not is_alive(leader)
    wait_until_dead(child)
    again = start_jobs()
    error = again.get(running).error
    assert again.get(running).state is OperationState.FAILED
    assert error is not None
    assert error.message == "the server stopped while the job was running"
    assert list(again.watch(queued))[-1].state is OperationState.SUCCEEDED


def test_a_table_that_cannot_be_used_is_one_clear_error(tmp_path: Path, start_jobs: StartJobs) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(ServiceError, match=r"jobs\.sqlite: the table of jobs cannot be used"):
        start_jobs()
