"""The small dense baseline, with latencies that follow from the networks' weights: no clock decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse import compiler
from hwsparse.data import Dataset
from hwsparse.errors import CompileError
from hwsparse.latency import CostModel
from hwsparse.model import Model, import_onnx
from hwsparse.pipeline import uniform_plan
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.finals import DENSE, Built, Workshop
from hwsparse.pipeline.judges import Judges, appoint_judges
from hwsparse.pipeline.small_dense import ROUNDS, STEPS, Lessons, Narrowed, first_shares, narrow_to, next_share
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import Narrower, apply_plan
from hwsparse.target import load_target
from tests.model.graphs import model_proto, node, stored, value
from tests.pipeline.benches import ByWeight, open_by_weight
from tests.sparsify.networks import product
from tests.sparsify.test_quality import classifier

TARGET = replace(load_target("x86-local"), threads=1)
NO_COSTS = cast(CostModel, None)  # what is built here asks for none


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByWeight]:
    records = tmp_path_factory.mktemp("bench") / "records.sqlite"
    with open_by_weight(1.0, TARGET, records, lambda: datetime.now(timezone.utc)) as opened:
        yield opened


def chain() -> Model:
    """Three products in a row; one kernel serves each, whatever is measured."""
    rng = np.random.default_rng(0)
    shapes = {"a": (128, 32), "b": (128, 128), "c": (3, 128)}
    nodes = [
        node("Gemm", ["x", "a"], ["h"], "first", transB=1),
        node("Relu", ["h"], ["i"]),
        node("Gemm", ["i", "b"], ["j"], "second", transB=1),
        node("Relu", ["j"], ["k"]),
        node("Gemm", ["k", "c"], ["y"], "last", transB=1),
    ]
    weights = [stored(name, rng.standard_normal(shape).astype(np.float32) * 0.2) for name, shape in shapes.items()]
    proto = model_proto(nodes, [value("x", (1, 32))], [value("y", (1, 3))], weights)
    return import_onnx(proto.SerializeToString(), name="chain")


def data_for(model: Model) -> Dataset:
    shape = model.inputs[0].shape[1:]
    x = np.random.default_rng(0).standard_normal((24, *shape)).astype(np.float32)
    return Dataset("own", {"x": x}, np.arange(24) % 3)


def prepared(model: Model, bench: Bench, scratch: Path, choice: str) -> tuple[Workshop, Judges, dict[str, Built]]:
    """The dense model and one with that choice for every layer that can have it, built."""
    judges = appoint_judges(model, data_for(model), TARGET, 0)
    shop = Workshop(model, TARGET, lambda plan: {}, NO_COSTS, bench, judges, judges.sample, scratch, 0)
    dense = Plan(model.digest)
    plans = {"sparse": uniform_plan(model, parse_choice(choice)), DENSE: dense}
    built = {}
    for label, plan in plans.items():
        (scratch / label).mkdir()
        library = compiler.build(
            model, plan, apply_plan(model, plan), TARGET, MappingProxyType({}), judges.sample, scratch / label
        )
        built[label] = Built(plan, plan, {}, library, None)
    return shop, judges, built


def test_it_takes_as_long_as_the_network_that_it_is_held_to(bench: Bench, tmp_path: Path) -> None:
    shop, judges, built = prepared(chain(), bench, tmp_path, "block4x1@0.7")
    steps: list[tuple[int, int]] = []
    narrowed = narrow_to(shop, judges, built, lambda times: "sparse", lambda done, total: steps.append((done, total)))
    assert isinstance(narrowed, Narrowed)
    times = bench.time_networks({"narrow": narrowed.library.directory, "sparse": built["sparse"].library.directory})
    one_step = 8 / 128  # channels are kept in multiples of 8
    assert times["narrow"].median_s / times["sparse"].median_s == pytest.approx(1, abs=2 * one_step)
    assert 0 < narrowed.keep < 1
    assert narrowed.model.layer("second").weight_shape[0] == narrowed.model.layer("last").weight_shape[1] < 128
    # It is fitted, and what is built computes what its file says.
    plain = compiler.onnxruntime_answers(narrowed.model, {}, judges.sample)["y"]
    np.testing.assert_allclose(narrowed.library.run(judges.sample)["y"], plain, rtol=1e-3, atol=1e-4)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (STEPS, STEPS)


def test_the_share_that_a_training_was_begun_with_is_kept_as_long_as_it_will_do(
    bench: ByWeight, tmp_path: Path
) -> None:
    begun, asked = tmp_path / "begun.json", list[float]()

    def train(narrower: Narrower, keep: float, narrow: Model) -> Model:
        asked.append(keep)
        assert begun.exists()  # before anything is trained
        return narrow

    def keeps(takes: float, lessons: Lessons | None) -> float:
        directory = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        shop, judges, built = prepared(chain(), replace(bench, small_dense_takes=takes), directory, "block4x1@0.7")
        found = narrow_to(shop, judges, built, lambda times: "sparse", lambda done, total: None, lessons)
        assert isinstance(found, Narrowed)
        return found.keep

    lessons = Lessons(train, begun)
    first = keeps(1.0, lessons)
    assert keeps(1.05, None) != first  # nothing was begun: it would have been another
    assert keeps(1.05, lessons) == first
    assert asked == [first, first]
    other = keeps(1.3, lessons)  # no longer about as fast
    assert other < first
    assert keeps(1.25, lessons) == other


def test_a_damaged_share_is_said(bench: Bench, tmp_path: Path) -> None:
    shop, judges, built = prepared(chain(), bench, tmp_path, "block4x1@0.7")
    lessons = Lessons(lambda narrower, keep, narrow: narrow, tmp_path / "begun.json")
    for text in ("", "{}", '{"keep": 1.5}', '{"keep": "half"}', "[0.5]"):
        lessons.begun.write_text(text)
        found = narrow_to(shop, judges, built, lambda times: "sparse", lambda done, total: None, lessons)
        assert isinstance(found, str) and "begun.json: does not tell a share of channels: remove it" in found


def test_why_there_is_none_is_said(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, judges, built = prepared(chain(), bench, tmp_path, "block4x1@0.6")

    def asked(label: str | None) -> Narrowed | str:
        return narrow_to(shop, judges, built, lambda times: label, lambda done, total: None)

    assert asked(None) == asked(DENSE) == "no finalist is faster than the dense model"

    def broken(*arguments: object) -> None:
        raise CompileError("the linker fell over")

    monkeypatch.setattr(compiler, "build", broken)
    assert asked("sparse") == "the linker fell over"


def test_a_model_without_channels_to_remove_has_none(bench: Bench, tmp_path: Path) -> None:
    model = product(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    shop, judges, built = prepared(model, bench, tmp_path, "block4x1@0.9")
    found = narrow_to(shop, judges, built, lambda times: "sparse", lambda done, total: None)
    assert isinstance(found, str) and "has no channels that can be removed" in found


def test_where_no_shape_is_nearer_the_dense_model_is_its_own_baseline(bench: Bench, tmp_path: Path) -> None:
    """Of 8 channels none can go: kernels work on as many at a time."""
    shop, judges, built = prepared(classifier(8), bench, tmp_path, "block4x1@0.6")
    found = narrow_to(shop, judges, built, lambda times: "sparse", lambda done, total: None)
    assert found == "no narrower network comes nearer to the latency of sparse than the dense one"


@given(st.floats(1.1, 20), st.floats(0, 0.5), st.floats(1.2, 2.2))
def test_shares_come_near_in_a_few_steps_where_latency_is_smooth(dense: float, rest: float, power: float) -> None:
    """Latency is a constant and a power of the share."""
    tried = {1.0: dense}
    for _ in range(2 * ROUNDS):
        share = next_share(tried)
        assert 0 < share < 1
        tried[share] = rest + (dense - rest) * share**power
    assert min(abs(latency - 1) for latency in tried.values()) < 0.03


@given(st.floats(1.01, 20), st.floats(1, 2))
def test_the_right_share_lies_between_the_first_ones(dense: float, power: float) -> None:
    high, low = (dense * share**power for share in first_shares(dense))
    assert low <= 1 + 1e-9 and high >= 1 - 1e-9


def test_three_steps_are_enough_where_time_goes_with_the_square() -> None:
    tried = {1.0: 2.0}
    for _ in range(2):
        share = next_share(tried)
        tried[share] = 0.3 + 1.7 * share**2
    assert min(abs(latency - 1) for latency in tried.values()) < 0.01


@given(st.dictionaries(st.floats(0.05, 0.99), st.floats(0.01, 30), max_size=5), st.floats(1.01, 20))
def test_a_share_is_always_one_whatever_was_measured(tried: dict[float, float], dense: float) -> None:
    assert 0 < next_share({**tried, 1.0: dense}) <= 1
