"""The worker of a job: what a search knows is told while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwsparse.cli import job
from hwsparse.data import Dataset, write_npz
from hwsparse.errors import Cancelled
from hwsparse.pipeline import Goal
from hwsparse.plan import Plan, parse_choice
from hwsparse.search import Candidate, Kind
from hwsparse.serve.jobfiles import JobRequest, ProgressReader
from hwsparse.serve.operation import Budget, Progress
from hwsparse.target import Target, load_target
from tests.sparsify.test_quality import classifier

CLASSIFIER = classifier()
(LAYER, *_) = CLASSIFIER.layers


def candidate(kind: Kind, latency_s: float, quality: float, ratio: float = 0.0) -> Candidate:
    choices = {LAYER.name: parse_choice(f"block4x1@{ratio}")} if ratio else {}
    interval = (0.9 * latency_s, 1.1 * latency_s)
    return Candidate(
        Plan.of(CLASSIFIER.digest, choices),
        latency_s,
        interval,
        "predicted",
        quality,
        (quality - 0.1, quality + 0.1),
        0.0 if kind == "dense" else 0.02,
        kind,
    )


DENSE = candidate("dense", 4e-3, 0.9)
FAST, WORSE, SLOW = (
    candidate("search", 1e-3, 0.5, 0.9),
    candidate("uniform", 2e-3, 0.8, 0.5),
    candidate("surrogate", 3e-3, 0.7, 0.7),  # not on the front
)


def test_a_front_has_predicted_latencies_and_the_quality_that_chooses() -> None:
    fast, worse, dense = job.live_front((DENSE, FAST, WORSE, SLOW), "top1", "files", 20)
    assert [point.plan for point in (fast, worse, dense)] == [FAST.plan, WORSE.plan, DENSE.plan]
    assert [point.method for point in (fast, worse, dense)] == ["search", "uniform", "dense"]
    assert (fast.latency.median_s, fast.latency.source, fast.latency.samples) == (1e-3, "predicted", 0)
    assert fast.quality is not None and dense.quality is not None
    assert (fast.quality.metric, fast.quality.dataset, fast.quality.samples) == ("top1", "files", 20)
    assert fast.quality.split == "calibration"
    assert fast.quality.drop == pytest.approx(0.4)
    assert fast.quality.drop_interval == pytest.approx((0.4 - 1.96 * 0.02, 0.4 + 1.96 * 0.02))
    assert dense.quality.drop == 0 and dense.quality.drop_interval == (0, 0)


def test_a_search_tells_its_front_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(CLASSIFIER.proto)
    x = np.random.default_rng(0).standard_normal((12, *CLASSIFIER.inputs[0].shape[1:])).astype(np.float32)
    write_npz(Dataset("files", {"x": x}, np.arange(12) % 4), tmp_path / "files.npz")
    monkeypatch.setattr(job, "FRONT_EVERY_S", 3600.0)
    reader, seen, targets = ProgressReader(tmp_path), list[Progress](), list[Target]()

    def searched(model: object, dataset: object, target: Target, goal: Goal, *rest: object) -> None:
        targets.append(target)
        assert (goal.trials, goal.dtypes) == (3, ("float32", "int8"))
        report: Callable[..., None] = rest[-1]  # type: ignore[assignment]
        for done, known in ((0, ()), (1, (DENSE,)), (2, (DENSE, FAST)), (3, (DENSE, FAST, WORSE))):
            report("search", done, 3, known)
            seen.append(reader.latest())
        raise Cancelled("enough")

    monkeypatch.setattr(job, "optimize", searched)
    monkeypatch.setattr("hwsparse.target.ALLOWED_CPUS", frozenset({0, 1}))
    asked = JobRequest(
        "optimize", str(tmp_path / "net.onnx"), "net", "0" * 64, (), "x86-avx2", str(tmp_path / "files.npz"), "files",
        seed=0, store=str(tmp_path / "store"), budget=Budget(3), threads=2,
        dtypes=("float32", "int8"),
    )  # fmt: skip
    with pytest.raises(Cancelled):
        job.run_job(tmp_path, asked)
    assert targets == [load_target("x86-avx2").with_threads(2)]
    assert [len(progress.front) for progress in seen] == [0, 1, 1, 3]  # at most one a period, and the last
    assert [progress.trials_done for progress in seen] == [0, 1, 2, 3]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    quality = seen[-1].front[0].quality
    assert quality is not None and (quality.metric, quality.samples) == ("top1", 4)
