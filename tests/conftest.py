"""What every test runs under."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hwsparse.execution import local
from hwsparse.latency import Footprint, LocalRunner, Measurement, Outcome, RunSettings, process
from hwsparse.latency.runner import ProcessRunner
from hwsparse.pipeline import exploration
from hwsparse.pipeline.bench import Bench, file_bytes
from tests.codegen import script_parsing
from tests.idle import IdleProcesses

# The same examples in every run: a test that fails, fails for whoever runs it next. No deadline: machines are busy.
settings.register_profile("hwsparse", derandomize=True, deadline=None, database=None)
settings.load_profile("hwsparse")
# Started in the background by a shell, everything would ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
script_parsing.install()

HERE = Path(__file__).parent
# Where files of tests take minutes: begun first, so that no process is left alone with one at the end.
LONGEST = ("pipeline", "cli", "benchmarks", "latency", "codegen")
# Where no test is about how libraries are timed, though many time some.
ROUGH = {"pipeline", "cli", "benchmarks"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(HERE).parts[0], len(places)))


@pytest.fixture(scope="session")
def idle() -> Iterator[IdleProcesses]:
    """Processes for whatever file of tests comes next."""
    processes = IdleProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="module", autouse=True)
def timed_roughly(request: pytest.FixtureRequest, idle: IdleProcesses) -> Iterator[None]:
    """Where no test is about that, libraries are timed as they are, cold, on any CPU and beside others.

    What was taken so says that it is as precise as was asked for.
    """
    if request.path.relative_to(HERE).parts[0] not in ROUGH:
        idle.close()
        yield
        return
    run_many, choose_cpus = ProcessRunner.run_many, process.choose_cpus

    def roughly(
        runner: ProcessRunner, libraries: Mapping[str, Path], settings: RunSettings, *others: Any, **named: Any
    ) -> dict[str, Outcome]:
        rough = replace(settings, precision=None, warmup_s=0.0)
        taken = run_many(runner, libraries, rough, *others, **named)
        return {
            key: replace(each, settings=settings) if isinstance(each, Measurement) else each
            for key, each in taken.items()
        }

    def weighed(bench: Bench, directories: Mapping[str, Path]) -> dict[str, Footprint]:
        """Files as they are, and as if each took four times as much memory: to see that takes a process for each."""
        return {key: Footprint(size := file_bytes(directory), 4.0 * size) for key, directory in directories.items()}

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ProcessRunner, "run_many", roughly)
        patch.setattr(Bench, "weigh_networks", weighed)
        patch.setattr(exploration, "lasts", lambda taken: True)
        patch.setattr(LocalRunner, "alone", lambda runner: nullcontext())
        # Each process that works takes seconds to start, and tests have a process for each CPU already.
        patch.setattr(local, "MOST_PROCESSES", 1)
        # More threads than there are CPUs are refused as ever.
        patch.setattr(process, "choose_cpus", lambda threads: choose_cpus(threads)[:0])
        idle.hand_on(patch)
        yield
