from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwsparse.errors import HwsparseError, InputError, MeasureError, ModelError, PlanError, ServiceError
from hwsparse.plan import Plan, parse_choice
from hwsparse.serve import jobfiles
from hwsparse.serve.jobfiles import (
    WORK,
    JobRequest,
    ProgressReader,
    ProgressWriter,
    read_error,
    read_report,
    read_request,
    read_result,
    write_error,
    write_report,
    write_request,
    write_result,
)
from hwsparse.serve.operation import Budget, JobError, JobResult, Progress
from tests.serve.fake_worker import front
from tests.serve.test_jobs import request_for

COMPILE = dataclasses.replace(
    request_for("m"), kind="compile", budget=None, choice="2:4", dataset_path=None, dataset_name=None
)
same_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    "request_",
    [
        request_for("m"),
        COMPILE,
        dataclasses.replace(COMPILE, choice=None, plan=Plan.of("m", {"l": parse_choice("channel@0.5")})),
    ],
)
def test_a_request_reads_back_equal(tmp_path: Path, request_: JobRequest) -> None:
    write_request(tmp_path, request_)
    assert read_request(tmp_path) == request_
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"budget": None},
        {"dataset_path": None, "dataset_name": None},
        {"dataset_name": None},
        {"kind": "compile"},
        {"kind": "compile", "budget": None},
        {"kind": "compile", "budget": None, "choice": "2:4", "plan": Plan("m")},
        {"kind": "compile", "budget": None, "choice": "nonsense"},
        {"shapes": (("x", (0,)),)},
        {"shapes": (("x", (1,)), ("x", (2,)))},
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_built(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(request_for("m"), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Budget(0),
        lambda: Budget(1, max_latency_s=0.0),
        lambda: Budget(1, max_latency_s=float("nan")),
        lambda: Budget(1, max_quality_drop=-0.1),
        lambda: Progress(fraction=1.1),
        lambda: Progress(trials_done=-1),
    ],
)
def test_budgets_and_progress_are_checked(build: object) -> None:
    with pytest.raises(InputError):
        build()  # type: ignore[operator]


def test_a_directory_without_a_request_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="not a job's directory"):
        read_request(tmp_path)


def test_results_and_errors_read_back_equal(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    assert read_error(tmp_path) is None
    write_result(tmp_path, JobResult(("a" * 64,), front(2)))
    write_error(tmp_path, PlanError("one\n  line"))
    assert read_result(tmp_path) == JobResult(("a" * 64,), front(2))
    assert read_error(tmp_path) == JobError("PlanError", "one line")
    write_error(tmp_path, PlanError("x" * 10_000))
    error = read_error(tmp_path)
    assert error is not None
    assert len(error.message) == 2000


def test_a_report_is_kept_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_report(tmp_path) is None
    write_report(tmp_path, '{"title": "é"}\n')
    assert read_report(tmp_path) == '{"title": "é"}\n'
    monkeypatch.setattr(jobfiles, "MAX_FILE_BYTES", 10)
    with pytest.raises(ServiceError, match=r"report\.json: larger than 10 bytes"):
        read_report(tmp_path)


def test_an_error_has_the_names_that_its_caller_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    job, home = state / "jobs" / "j", tmp_path / "home"
    job.mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: home)
    model, data, store = state / "models" / "a6" / "net.onnx", state / "data" / "own.npz", state / "artifacts"
    write_request(
        job,
        dataclasses.replace(
            request_for("net", store=str(store)), model_path=str(model), dataset_path=str(data), dataset_name="own"
        ),
    )
    for error, said in (
        (ModelError(f"{model}: not an ONNX model"), JobError("ModelError", "net.onnx: not an ONNX model")),
        (PlanError(f"{data} has label 9"), JobError("PlanError", "own.npz has label 9")),
        (
            OSError(28, "No space left", str(store / "x")),
            JobError("StorageError", "the server's store/x: No space left"),
        ),
        (OSError(13, "Denied", str(job / WORK)), JobError("StorageError", "the job/work: Denied")),
        (OSError(28, "No space left"), JobError("StorageError", "No space left")),
        (MeasureError(f"{home}/.cache/r.sqlite"), JobError("MeasureError", "~/.cache/r.sqlite")),
        (MeasureError("node /conv/Conv"), JobError("MeasureError", "node /conv/Conv")),
    ):
        write_error(job, error)
        assert read_error(job) == said


def test_an_error_finds_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, work = Path.write_text, tmp_path / WORK
    work.mkdir()

    def full(path: Path, text: str, encoding: str) -> int:
        if work.exists():
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, encoding)

    monkeypatch.setattr(Path, "write_text", full)
    write_error(tmp_path, OSError(28, "No space left on device", str(work / "study.sqlite")))
    assert read_error(tmp_path) == JobError("StorageError", f"the job/{WORK}/study.sqlite: No space left on device")


def test_files_that_cannot_be_read_are_said_so(tmp_path: Path) -> None:
    for name in ("request.json", "result.json", "error.json", "progress.jsonl"):
        (tmp_path / name).mkdir()
    for read in (read_request, read_result, read_error, lambda directory: ProgressReader(directory).latest()):
        with pytest.raises(ServiceError, match=r"^\w+\.jsonl?: cannot be read: Is a directory$"):
            read(tmp_path)


def test_progress_is_read_as_it_is_written(tmp_path: Path) -> None:
    reader, writer = ProgressReader(tmp_path), ProgressWriter(tmp_path)
    assert reader.latest() == Progress()
    writer.report("measure", 0.25, "a\nb")
    assert reader.latest() == Progress("measure", 0.25, "a b")
    assert reader.latest() == Progress("measure", 0.25, "a b")
    writer.report("search", 0.5, trials_done=1, trials_total=9, front=front(2))
    writer.report("search", 0.75, trials_done=2, trials_total=9)
    expected = Progress("search", 0.75, "", 2, 9, front(2))
    assert reader.latest() == expected
    assert ProgressReader(tmp_path).latest() == expected


def test_a_front_is_written_once(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path)
    for _ in range(3):
        writer.report("search", 0.5, front=front(2))
    lines = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["front"] is None for line in lines] == [False, True, True]


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    ProgressWriter(tmp_path).report("a", 0.5)
    ProgressWriter(tmp_path).report("b", 0.75)
    whole = (tmp_path / "progress.jsonl").read_bytes()
    reader = ProgressReader(tmp_path)
    seen = []
    for end in range(len(whole) + 1):
        (tmp_path / "progress.jsonl").write_bytes(whole[:end])
        stage = reader.latest().stage
        if seen[-1:] != [stage]:
            seen.append(stage)
    assert seen == ["", "a", "b"]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobfiles, "MAX_LINE_BYTES", 100)
    (tmp_path / "progress.jsonl").write_bytes(b"x" * 100)
    with pytest.raises(ServiceError, match="longer than 100 bytes"):
        ProgressReader(tmp_path).latest()


def test_progress_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    ProgressWriter(tmp_path).report("a", 0.5)
    reader = ProgressReader(tmp_path)
    assert reader.latest().stage == "a"
    (tmp_path / "progress.jsonl").write_text("{}\n")
    with pytest.raises(ServiceError, match=r"progress\.jsonl: shorter than what was read of it"):
        reader.latest()


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobfiles, "MAX_FILE_BYTES", 10)
    write_result(tmp_path, JobResult(()))
    with pytest.raises(ServiceError, match="larger than 10 bytes"):
        read_result(tmp_path)


@same_directory
@given(st.binary(max_size=80))
def test_no_bytes_break_the_readers(tmp_path: Path, content: bytes) -> None:
    for name, read in (
        ("request.json", read_request),
        ("result.json", read_result),
        ("error.json", read_error),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ServiceError):
            read(tmp_path)
    (tmp_path / "progress.jsonl").write_bytes(content + b"\n")
    with pytest.raises(HwsparseError):
        ProgressReader(tmp_path).latest()
