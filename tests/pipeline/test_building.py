"""Networks built by workers: what comes back is what was ordered, checked, and failures are told as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwsparse.codegen import random_inputs
from hwsparse.compiler import onnxruntime_answers
from hwsparse.errors import CompileError, StorageError
from hwsparse.execution import Here, open_workers
from hwsparse.pipeline import uniform_plan
from hwsparse.pipeline.building import NetworkOrder, build_networks
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import apply_plan
from tests.codegen.layers import CPU
from tests.sparsify.test_quality import classifier

TARGET, MODEL = replace(CPU, threads=1), classifier(16)
INPUTS = random_inputs(MODEL.inputs, 4)
PLANS = [
    Plan(MODEL.digest),
    *(uniform_plan(MODEL, parse_choice(text)) for text in ("block4x1@0.5", "unstructured@0.9")),
]


def order(plan: Plan, directory: Path, **kernels: str) -> NetworkOrder:
    directory.mkdir()
    return NetworkOrder(MODEL, plan, apply_plan(MODEL, plan), kernels, directory)


def test_several_networks_are_built_at_a_time(tmp_path: Path) -> None:
    orders = [order(plan, tmp_path / str(number)) for number, plan in enumerate(PLANS)]
    with open_workers(processes=2) as workers:
        found = {each.plan: library for each, library in build_networks(TARGET, INPUTS, workers, orders)}
    assert found.keys() == set(PLANS)
    for each in orders:
        library = found[each.plan]
        assert library.directory == each.directory
        assert library.check() == 0  # with what it gave where it was built
        expected = onnxruntime_answers(MODEL, each.weights, INPUTS)["y"]
        np.testing.assert_allclose(library.run(INPUTS)["y"], expected, rtol=1e-3, atol=1e-4)


def test_the_next_order_is_asked_for_when_somebody_can_build_it(tmp_path: Path) -> None:
    asked = list[Plan]()

    def orders() -> Iterator[NetworkOrder]:
        for number, plan in enumerate(PLANS):
            asked.append(plan)
            yield order(plan, tmp_path / str(number))

    built = build_networks(TARGET, INPUTS, Here(), orders())
    next(built)
    assert asked == PLANS[:2]
    built.close()


def test_a_network_that_does_not_compile_is_told_as_it_is(tmp_path: Path) -> None:
    wrong = order(PLANS[0], tmp_path / "wrong", conv="no_such_kernel")
    with open_workers(processes=1) as workers, pytest.raises(CompileError, match="no_such_kernel"):
        list(build_networks(TARGET, INPUTS, workers, [wrong]))


def test_what_there_is_no_room_for_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = order(PLANS[0], tmp_path / "full")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"cannot write .*full.*: No space left .*; free room"):
        list(build_networks(TARGET, INPUTS, Here(), [ordered]))


def test_that_there_is_no_room_where_it_is_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"cannot build in .*gone: No such file"):
        list(build_networks(TARGET, INPUTS, Here(), [order(PLANS[0], tmp_path / "there")]))
