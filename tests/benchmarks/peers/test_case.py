"""A case on disk, and how a peer's outputs are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.case import CASE, MODEL, write_case
from tests.benchmarks.stub_peers import Honest, Wrong


@pytest.fixture
def case(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    draw = [{"ids": rng.integers(0, 9, (1, 4)), "mask": np.ones((1, 4), np.int64)} for _ in range(3)]
    write_case(tmp_path, b"model", draw[0], {"z": np.float32([1, -2]), "a": np.float32([[3]])}, draw[1:])
    return tmp_path


def test_a_case_keeps_its_arrays_in_the_models_order(case: Path) -> None:
    peer = Honest(case)
    assert (case / MODEL).read_bytes() == b"model" and (case / CASE).exists()
    assert list(peer.inputs) == ["ids", "mask"] and list(peer.expected) == ["z", "a"]
    assert {name: values.shape for name, values in peer.calibration.items()} == {"ids": (2, 1, 4), "mask": (2, 1, 4)}


def test_outputs_are_compared_relative_to_their_largest_value(case: Path) -> None:
    assert Honest(case).check() == 0
    assert Wrong(case).check() == pytest.approx(0.01, rel=1e-4)
    broken = Honest(case)
    broken.run = lambda: [np.float32([1, np.nan]), np.float32([[3]])]  # type: ignore[method-assign]
    assert broken.check() == float("inf")


def test_every_sample_is_a_mean_over_calls(case: Path) -> None:
    peer, calls = Honest(case), []
    peer.run = lambda: calls.append(1) or []  # type: ignore[method-assign, func-returns-value]
    samples = peer.time(3, 2)
    assert len(samples) == 3 and all(sample > 0 for sample in samples)
    assert len(calls) == 1 + 3 * 2
