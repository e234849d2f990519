"""What is told before anything is built, from tables made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.data.answers import Respondent
from hwsparse.errors import InputError
from hwsparse.latency import CostModel, Footprint, Footprints, Workload
from hwsparse.pipeline.forecast import Forecast, require_possible
from hwsparse.plan import Plan, parse_choice
from hwsparse.search import Offer, SearchSpace, build_space
from hwsparse.search.bounds import Bounds
from hwsparse.sparsify import Evaluator
from hwsparse.target import load_target
from tests.latency.examples import measurement
from tests.sparsify.test_quality import classifier

MODEL = classifier()
TARGET = replace(load_target("x86-avx2"), threads=1)
TIMES_S = {"dense": 10e-3, "block4x1@0.5": 6e-3, "block4x1@0.9": 2e-3}  # of each layer
CONV = MODEL.layer("conv")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    offers = {
        layer.name: [
            Offer(parse_choice(text), time_s, (time_s, time_s), 0.1 * parse_choice(text).ratio)
            for text, time_s in TIMES_S.items()
        ]
        for layer in MODEL.layers
    }
    return build_space(MODEL.digest, offers)


@pytest.fixture(scope="module")
def told() -> Forecast:
    table = {}
    for layer in MODEL.layers:
        for text, time_s in TIMES_S.items():
            workload = Workload.of(layer, parse_choice(text), TARGET)
            table[workload] = measurement(workload, *[time_s] * 6)
    costs = CostModel.fit(table)
    dense, sparse = Plan(MODEL.digest), Plan.of(MODEL.digest, dict.fromkeys(names(), parse_choice("block4x1@0.9")))
    whole = [(plan, measurement(Workload.of(CONV, parse_choice("dense"), TARGET), *[s] * 6))
             for plan, s in ((dense, 20e-3), (sparse, 4e-3))]  # fmt: skip
    first = Forecast(MODEL, TARGET, costs, Footprints.fit([(1.0, Footprint(1.0, 1.0))]))
    weighed = [(first.stored(plan), Footprint(first.stored(plan) + 1e4, None)) for plan in (dense, sparse)]
    return replace(first, costs=costs.fit_network(MODEL, whole), footprints=Footprints.fit(weighed))


def names() -> list[str]:
    return [layer.name for layer in MODEL.layers]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    """Four classes, of which the dense model gets all right but for every eighth sample."""
    x = np.random.default_rng(2).standard_normal((160, 16, 12, 12)).astype(np.float32)
    data = Dataset("own", {"x": x}, np.zeros(160, np.int64))
    answers = Respondent(MODEL.apart, MODEL.name).answers(data).argmax(1)
    return Evaluator(
        MODEL, replace(data, labels=np.where(np.arange(160) % 8, answers, (answers + 1) % 4)), "calibration"
    )


def test_the_fastest_and_the_smallest_plan(told: Forecast, space: SearchSpace) -> None:
    sparsest = dict.fromkeys(names(), "block4x1@0.9")
    assert {name: str(choice) for name, choice in told.fastest(space).choices} == sparsest
    assert {name: str(choice) for name, choice in told.smallest(space).choices} == sparsest
    assert told.latency(told.fastest(space)).latency_s == pytest.approx(4e-3, rel=0.02)


@pytest.mark.parametrize(
    "bounds",
    [{"max_latency_s": 4.2e-3}, {"max_file_bytes": 1e6}, {"max_memory_bytes": 1.0}, {"min_quality": 0.87}, {}],
)
def test_what_can_be_had_is_searched_for(
    bounds: dict[str, float], told: Forecast, space: SearchSpace, evaluator: Evaluator
) -> None:
    """Of memory nothing is known here, and nothing is refused."""
    asked = Bounds(**bounds)
    require_possible(space, told, evaluator, asked)
    best = asked.excess(told.latency(told.fastest(space)).latency_s, told.size(told.smallest(space)))
    assert all(excess <= 0 for excess in best.values())
    assert all(lack <= 0 for lack in asked.lack(evaluator.evaluate({}).value).values())


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"max_latency_s": 3e-3}, "latency: no plan of classifier takes 3.00 ms on x86-avx2; the fastest of all, "
                                  "whatever it is worth, should take 4.00 ms"),
        ({"max_file_bytes": 1e4}, "files: no plan of classifier fits 10.0 kB; the smallest of all"),
        ({"min_quality": 0.9}, "quality: the dense model itself is worth 87.5 % on the samples that choose, less "
                               "than the 90.0 % asked for"),
    ],
)  # fmt: skip
def test_what_nobody_can_have_is_said_with_the_best_there_is(
    bounds: dict[str, float], said: str, told: Forecast, space: SearchSpace, evaluator: Evaluator
) -> None:
    with pytest.raises(InputError) as caught:
        require_possible(space, told, evaluator, Bounds(**bounds))
    assert str(caught.value).startswith(said)
