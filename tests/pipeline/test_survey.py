"""What is offered, and what is pruned, under timings that are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hwsparse.latency import (
    CalibrationReport,
    CostModel,
    MeasureFailure,
    Measurement,
    RunSettings,
    Workload,
    layer_settings,
)
from hwsparse.model import Model
from hwsparse.pipeline.bench import Bench
from hwsparse.pipeline.survey import survey
from hwsparse.plan import Choice, parse_choice
from hwsparse.search import Offer, SettledChoices
from hwsparse.sparsify import LayerDatabase
from tests.latency.examples import TARGET, measurement
from tests.pipeline.test_thrift import BROKEN, CHOICES, FIRST, SECOND, Timed, asked
from tests.pipeline.test_thrift import TARGET as LAYERS_TARGET
from tests.sparsify.networks import classifier, images

HALF, BLOCK, NM = (parse_choice(text) for text in ("unstructured@0.5", "block4x1@0.5", "2:4"))
LAYER = "first"
TIMES_S = {Choice(): 1e-3, HALF: 2e-3, BLOCK: 0.5e-3}  # nothing else can be timed


class _Timed:
    """A bench that knows how long each choice takes, of whatever layer."""

    target = TARGET

    def calibrate(
        self,
        model: Model,
        options: Mapping[str, Sequence[Choice]],
        progress: Callable[[int, int], None],
        settings: RunSettings | None = None,
    ) -> CalibrationReport:
        table: dict[Workload, Measurement] = {}
        failures: dict[Workload, MeasureFailure] = {}
        for layer in model.layers:
            for choice in (Choice(), *options.get(layer.name, ())):
                workload = Workload.of(layer, choice, TARGET)
                if choice in TIMES_S:
                    table[workload] = measurement(workload, TIMES_S[choice])
                else:
                    failures[workload] = MeasureFailure(workload.key, "build", "not today")
        return CalibrationReport(table, failures, frozenset(table))


@pytest.fixture
def database(tmp_path: Path) -> LayerDatabase:
    return LayerDatabase(tmp_path, classifier(), images(12))


def surveyed(database: LayerDatabase, settled: SettledChoices | None = None) -> dict[Choice, Offer]:
    bench = cast(Bench, _Timed())
    offers, _ = survey(classifier(), database, TARGET, (HALF, BLOCK, NM), settled, bench, lambda *stage: None)
    return {offer.choice: offer for offer in offers[LAYER]}


def test_only_what_is_faster_is_pruned(database: LayerDatabase) -> None:
    offers = surveyed(database)
    assert [choice for name, choice in database.entries() if name == LAYER] == [BLOCK]
    assert offers[Choice()].refused is None and offers[Choice()].error == 0
    assert offers[BLOCK].error == database.entries()[LAYER, BLOCK].output_error > 0
    assert "not faster than dense beyond the noise: 2 ms against 1 ms" in str(offers[HALF].refused)
    assert "not today" in str(offers[NM].refused)


def test_what_a_study_has_settled_is_pruned_however_long_it_takes(database: LayerDatabase) -> None:
    offers = surveyed(database, SettledChoices(((LAYER, tuple(sorted(map(str, (Choice(), HALF, NM))))),)))
    assert list(database.entries()) == [(LAYER, HALF)]
    assert offers.keys() == {Choice(), HALF, NM}
    assert (offers[HALF].latency_s, offers[HALF].refused) == (TIMES_S[HALF], None)
    assert offers[HALF].error == database.entries()[LAYER, HALF].output_error > 0
    assert "not today" in str(offers[NM].refused)


class Unharmed:
    """A database of pruned layers that lose next to nothing."""

    def build(self, wanted: Mapping[str, Sequence[Choice]], on_stage: object) -> None:
        self.made = {(name, choice): SimpleNamespace(output_error=0.1) for name in wanted for choice in wanted[name]}

    def entries(self) -> dict[tuple[str, Choice], SimpleNamespace]:
        return self.made


def thriftily(bench: Timed, net: Model) -> tuple[dict[str, list[Offer]], CostModel]:
    database = cast(LayerDatabase, Unharmed())
    return survey(net, database, LAYERS_TARGET, CHOICES, None, cast(Bench, bench), lambda *stage: None, 0.1)


def test_what_is_not_measured_is_predicted_but_never_what_failed() -> None:
    """A second network of a family, of which the first was measured in full."""
    bench = Timed(BROKEN)
    bench.calibrate(FIRST, asked(FIRST), lambda *step: None, layer_settings(LAYERS_TARGET))
    bench.done.clear()
    offers, costs = thriftily(bench, SECOND)
    assert sum(bench.done) < 0.8 * len(SECOND.layers) * (len(CHOICES) + 1)
    sources = set()
    for layer in SECOND.layers:
        for offer in offers[layer.name]:
            known = costs.predict(Workload.of(layer, offer.choice, LAYERS_TARGET))
            if offer.refused is None:
                assert offer.latency_s == known.latency_s and known.in_domain
                sources.add(known.source)
    assert sources == {"measured", "predicted"}


def test_where_nothing_is_on_record_some_layers_teach() -> None:
    """Dense layers are measured first, and tell nothing of sparse ones."""
    bench = Timed()
    _, costs = thriftily(bench, FIRST)
    assert costs.learned is not None
    assert bench.done[0] == len(FIRST.layers)
    assert sum(bench.done) < 0.8 * len(FIRST.layers) * (len(CHOICES) + 1)
