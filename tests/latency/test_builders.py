from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hwsparse.errors import Cancelled, CompileError, MeasureError, PatternError
from hwsparse.execution import Here, Workers, open_workers
from hwsparse.latency import builders
from hwsparse.latency.builders import ORDER, Crew, Order
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, conv, matmul

HALF, MOST = Choice(Block(4), 0.5), Choice(Block(4), 0.9)


class FakeBuilder:
    """Builds nothing; what goes wrong is the order's kernel."""

    @staticmethod
    def load(directory: Path, threads: int) -> None:
        kernel = json.loads((directory / ORDER).read_text())["kernel"]
        match kernel:
            case "refused":
                (directory / builders.REFUSAL).write_text("TVM said no")
            case "crash":
                os.abort()
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed once":
                if not (directory / "once").exists():
                    (directory / "once").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
            case "bug":
                raise KeyError("a bug")
        (directory / "pid").write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with open_workers(processes=2) as workers:
        yield workers


@pytest.fixture
def crew(workers: Workers) -> Crew:
    return Crew(workers, "tests.latency.test_builders:FakeBuilder")


def orders(tmp_path: Path, *kernels: str, choice: Choice = HALF) -> list[Order]:
    found = []
    for number, kernel in enumerate(kernels):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        found.append(Order(matmul(), choice, TARGET, kernel, directory))
    return found


def test_orders_of_one_kernel_are_built_by_one_process_and_all_are_counted(crew: Crew, tmp_path: Path) -> None:
    asked = orders(tmp_path, "a", "b", "a", "b", "a")
    counted: list[threading.Thread] = []
    assert crew.build_many(asked, lambda: counted.append(threading.current_thread())) == dict.fromkeys(asked)
    assert counted == [threading.current_thread()] * 5
    builders_of = {
        kernel: {(each.directory / "pid").read_text() for each in asked if each.kernel == kernel} for kernel in "ab"
    }
    assert all(len(pids) == 1 for pids in builders_of.values())


def test_what_cannot_be_built_is_told_and_all_else_is_built(crew: Crew, tmp_path: Path) -> None:
    asked = orders(tmp_path, "a", "refused", "crash", "b")
    found = {order.kernel: reason for order, reason in crew.build_many(asked, lambda: None).items()}
    assert found == {
        "a": None,
        "refused": "TVM said no",
        "crash": "the process that compiles: killed by SIGABRT",
        "b": None,
    }


def test_a_compiler_that_is_killed_has_a_second_chance(crew: Crew, tmp_path: Path) -> None:
    """As one that was killed while it waited, or for lack of memory."""
    asked = orders(tmp_path, "killed once", "killed", "a")
    found = {order.kernel: reason for order, reason in crew.build_many(asked, lambda: None).items()}
    killed = "the process that compiles: killed by SIGKILL (perhaps for lack of memory)"
    assert found == {"killed once": None, "killed": killed, "a": None}


def test_a_compiler_that_hangs_is_given_up(crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "BUILD_TIMEOUT_S", 1.0)
    ((_, reason),) = crew.build_many(orders(tmp_path, "hang"), lambda: None).items()
    assert reason == "the process that compiles: no answer within 1 s"


def test_an_error_of_ours_is_one_clear_error(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"cannot build matmul .* as block4x1@0.5: KeyError: 'a bug'"):
        crew.build_many(orders(tmp_path, "bug"), lambda: None)


def test_a_directory_that_cannot_be_written_to_ends_it(crew: Crew, tmp_path: Path) -> None:
    (order,) = orders(tmp_path, "a")
    order.directory.rmdir()
    with pytest.raises(MeasureError, match=rf"cannot build matmul .* in {order.directory}: No such file or directory"):
        crew.build_many([order], lambda: None)


def test_a_worker_without_room_for_what_it_builds_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builders, "_build_one", full)
    with pytest.raises(MeasureError, match=rf"cannot build matmul .* in {tempfile.gettempdir()}: No space left"):
        Crew(Here()).build_many(orders(tmp_path, "a"), lambda: None)


def test_no_orders_start_no_process(workers: Workers) -> None:
    assert Crew(workers, "no.such:Builder").build_many([], lambda: None) == {}


def test_a_builder_that_does_not_start_is_one_clear_error(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"cannot load no\.such:Builder: ModuleNotFoundError"):
        Crew(workers, "no.such:Builder").build_many(orders(tmp_path, "a"), lambda: None)


def test_nothing_is_built_any_more_when_its_workers_are_gone(tmp_path: Path) -> None:
    with open_workers(processes=1) as own:
        crew = Crew(own, "tests.latency.test_builders:FakeBuilder")
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(crew.build_many, orders(tmp_path, "a", "hang"), lambda: None)
            while not (tmp_path / "0" / "pid").exists():
                time.sleep(0.01)
            own.close()
            with pytest.raises(Cancelled):
                building.result()
    assert [path.name for path in (tmp_path / "1").iterdir()] == []


@pytest.mark.parametrize("error", [CompileError("TVM said no"), PatternError("8 rows are no multiple of 16")])
def test_a_refusal_of_the_code_generator_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With the real builder, in this process."""
    import hwsparse.codegen

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(hwsparse.codegen, "build_layer", refuse)
    monkeypatch.setattr(builders, "Worker", _Here)
    monkeypatch.setattr(builders, "_processes", {})
    (order,) = orders(tmp_path, "a")
    assert Crew(Here()).build_many([order], lambda: None) == {order: str(error)}


class _Here:
    def __init__(self, loader: str, threads: int, *, pinned: bool) -> None:
        pass

    def ask(self, timeout_s: float, *, do: str, slot: int, directory: str) -> None:
        builders.Builder.load(Path(directory), 1)


def test_it_builds_real_libraries(workers: Workers, tmp_path: Path) -> None:
    from hwsparse.codegen import Library, kernels_for
    from hwsparse.target import load_target

    target = load_target("x86-local").with_threads(1)
    layer = conv(outputs=8)
    asked = []
    for number, choice in enumerate((Choice(), HALF, MOST)):
        directory = tmp_path / f"{number}"
        directory.mkdir()
        asked.append(Order(layer, choice, target, kernels_for(layer, choice, target)[0], directory))
    crew = Crew(workers)
    assert crew.build_many(asked, lambda: None) == dict.fromkeys(asked)
    assert list(crew.kernels_for(layer, HALF, target)) == list(kernels_for(layer, HALF, target))
    for order in asked:
        error = Library.load(order.directory, 1).check()
        assert error is not None and error < 1e-5
