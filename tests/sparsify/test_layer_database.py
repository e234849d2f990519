from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from hwsparse.data import Dataset
from hwsparse.errors import DataError, ModelError, PlanError, StorageError
from hwsparse.execution import Here, open_workers
from hwsparse.model import Model
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.sparsify import LayerDatabase, alps, collect_statistics, output_error, pruned_model
from hwsparse.sparsify.sensitivity import Harm, Sensitivity
from tests.sparsify.networks import classifier, embedder, images, sentences

R = TypeVar("R")

HALF, BLOCK, NM = (parse_choice(text) for text in ("unstructured@0.5", "block4x1@0.5", "2:4"))
WANTED: Mapping[str, Sequence[Choice]] = {"first": [HALF, BLOCK], "grouped": [NM], "last": [HALF]}


@pytest.fixture(scope="module")
def model() -> Model:
    return classifier()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return images(12)


@pytest.fixture(scope="module")
def built(model: Model, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built")
    LayerDatabase(directory, model, dataset, threads=2).build(WANTED)
    return directory


@pytest.fixture
def directory(built: Path, tmp_path: Path) -> Path:
    """A copy of a database, to be damaged."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def plan_of(model: Model) -> Plan:
    return Plan.of(model.digest, {"first": BLOCK, "grouped": NM, "last": HALF})


def files(directory: Path) -> list[Path]:
    return sorted((directory / "weights").rglob("*.*"))


@pytest.mark.parametrize(
    ("network", "data", "rows"), [(classifier(), images(40), 16), (embedder(), sentences(20), 16)], ids=["one", "pairs"]
)
def test_harm_is_told_by_few_rows(network: Model, data: Dataset, rows: int, tmp_path: Path) -> None:
    name = network.layers[0].name
    database = LayerDatabase(tmp_path, network, data)
    database.build({name: [HALF]})
    labels = rows * len(data) // data.rows
    tried_on = data.subset(np.linspace(0, len(data) - 1, labels).round())
    assert tried_on.rows == rows
    weight = database.weights(Plan.of(network.digest, {name: HALF}))[name]
    harm = Sensitivity(network, network.layer(name), tried_on).harm(weight)
    assert database.entries()[name, HALF].harm.divergence == pytest.approx(harm.divergence)


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path, model: Model, dataset: Dataset) -> None:
    database = LayerDatabase(tmp_path, model, dataset)
    database.build({model.layers[0].name: [HALF]})
    (whole,) = tmp_path.rglob("*.safetensors")
    old, young = (whole.with_name(f".{whole.stem}.{number}.tmp") for number in range(2))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    LayerDatabase(tmp_path, model, dataset)
    assert not old.exists() and young.exists() and whole.exists()


def test_entries_are_what_the_pruner_makes_and_what_that_harms(built: Path, model: Model, dataset: Dataset) -> None:
    database = LayerDatabase(built, model, dataset)
    entries = database.entries()
    assert entries.keys() == {(name, choice) for name, choices in WANTED.items() for choice in choices}
    statistics = collect_statistics(model, dataset, model.layers, max_samples=128)
    weights = database.weights(plan_of(model))
    for name, choice in plan_of(model).choices:
        layer, dense = model.layer(name), model.weight(name)
        np.testing.assert_array_equal(weights[name], alps(dense, statistics[name], choice, layer.groups))
        entry = entries[name, choice]
        assert entry.output_error == pytest.approx(output_error(dense, weights[name], statistics[name]))
        harm = Sensitivity(model, layer, dataset).harm(weights[name])
        assert entry.harm.loss == pytest.approx(harm.loss) and entry.harm.divergence == pytest.approx(harm.divergence)


def test_what_is_there_is_not_made_again(directory: Path, model: Model, dataset: Dataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in files(directory)}
    stages: list[tuple[str, int, int]] = []
    database = LayerDatabase(directory, model, dataset)
    database.build(WANTED, lambda *stage: stages.append(stage))
    assert not stages
    database.build({"last": [HALF, NM]}, lambda *stage: stages.append(stage))
    assert [stage for stage in stages if stage[0] == "pruning"] == [("pruning", 1, 1)]
    assert {path: path.stat().st_mtime_ns for path in files(directory) if path in before} == before


def test_who_does_the_work_changes_nothing(directory: Path, model: Model, dataset: Dataset, tmp_path: Path) -> None:
    with open_workers(processes=2) as workers:
        apart = LayerDatabase(tmp_path / "apart", model, dataset, threads=1, workers=workers)
        apart.build(WANTED)
        with pytest.raises(PlanError, match=r"'grouped' cannot be channel@0\.5"):
            apart.build({"grouped": [parse_choice("channel@0.5")]})
    assert apart.entries() == LayerDatabase(directory, model, dataset).entries()


def test_choices_of_a_layer_at_one_ratio_are_one_task(
    model: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    class Watched(Here):
        def submit(self, task: Callable[..., R], *arguments: Any) -> Future[R]:
            asked.append((arguments[2].name, [str(choice) for choice in arguments[4]]))
            return super().submit(task, *arguments)

    most = parse_choice("unstructured@0.9")
    LayerDatabase(tmp_path, model, dataset, workers=Watched()).build({"first": [most, HALF, BLOCK], "last": [HALF]})
    assert asked == [
        ("first", ["unstructured@0.5", "block4x1@0.5"]),
        ("first", ["unstructured@0.9"]),
        ("last", ["unstructured@0.5"]),
    ]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_what_was_made_before_a_stop_is_kept(
    model: Model, dataset: Dataset, tmp_path: Path, stop: type[BaseException]
) -> None:
    database = LayerDatabase(tmp_path, model, dataset)

    def stopping(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("pruning", 2):
            raise stop

    with pytest.raises(stop):
        database.build(WANTED, stopping)
    assert len(database.entries()) == 2
    done: list[int] = []
    database.build(WANTED, lambda stage, _, total: done.append(total) if stage == "pruning" else None)
    assert done == [2, 2] and len(database.entries()) == 4


def retrained(model: Model) -> Model:
    """The same layers with other weights."""
    return pruned_model(model, {"last": 2 * model.weight("last")})


def test_a_model_whose_weights_have_changed_gets_its_own(directory: Path, model: Model, dataset: Dataset) -> None:
    plan, other = Plan.of(model.digest, {"last": HALF}), retrained(model)
    before = LayerDatabase(directory, model, dataset).weights(plan)["last"]
    changed = LayerDatabase(directory, other, dataset)
    changed.build({"last": [HALF]})
    np.testing.assert_allclose(
        changed.weights(Plan.of(other.digest, {"last": HALF}))["last"], 2 * before, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(LayerDatabase(directory, model, dataset).weights(plan)["last"], before)


def test_a_layer_that_is_not_there_is_an_error(tmp_path: Path, model: Model, dataset: Dataset) -> None:
    with pytest.raises(ModelError, match="no prunable layer 'nonsense'"):
        LayerDatabase(tmp_path, model, dataset).build({"last": [HALF], "nonsense": [HALF]})


@pytest.mark.parametrize("changed", ["weights", "model", "data", "pruner", "samples", "seed"])
def test_another_basis_has_entries_of_its_own(directory: Path, model: Model, dataset: Dataset, changed: str) -> None:
    other = {
        "weights": lambda: LayerDatabase(directory, retrained(model), dataset),
        "model": lambda: LayerDatabase(directory, embedder(), sentences(3)),
        "data": lambda: LayerDatabase(directory, model, images(12, seed=1)),
        "pruner": lambda: LayerDatabase(directory, model, dataset, pruner="magnitude"),
        "samples": lambda: LayerDatabase(directory, model, dataset, samples=5),
        "seed": lambda: LayerDatabase(directory, model, dataset, seed=1),
    }[changed]()
    assert other.entries() == {}
    assert len(LayerDatabase(directory, model, dataset).entries()) == 4


def test_a_plan_that_was_not_built_is_refused(built: Path, model: Model, dataset: Dataset) -> None:
    database = LayerDatabase(built, model, dataset)
    with pytest.raises(PlanError, match=r"last as 2:4 was not built"):
        database.weights(Plan.of(model.digest, {"last": NM}))
    with pytest.raises(PlanError, match="of another model than classifier"):
        database.weights(Plan.of(embedder().digest, {"last": HALF}))


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_forgotten_and_made_again(
    directory: Path, model: Model, dataset: Dataset, damage: str
) -> None:
    database = LayerDatabase(directory, model, dataset)
    whole = database.weights(plan_of(model))
    victim = directory / "weights" / database.entries()["grouped", NM].weights[:2]
    (path,) = (file for file in victim.iterdir() if file.stem == database.entries()["grouped", NM].weights)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "changed" else content[:-7])
    with pytest.raises(StorageError, match="made again when the same command is run again"):
        database.weights(plan_of(model))
    assert not path.exists() and ("grouped", NM) not in database.entries()
    database.build(WANTED)
    again = database.weights(plan_of(model))
    assert path.read_bytes() == content
    assert all(np.array_equal(again[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pruned_layers SET weights = '../../../etc/passwd'",
        "UPDATE pruned_layers SET output_error = 'much'",
        "UPDATE pruned_layers SET output_error = 9e999",
        "UPDATE pruned_layers SET divergence = -1.0",
        "UPDATE pruned_layers SET choice = choice || ' and more'",
    ],
)
def test_entries_that_no_build_wrote_are_refused(
    directory: Path, model: Model, dataset: Dataset, statement: str
) -> None:
    with sqlite3.connect(directory / "pruned.sqlite") as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(StorageError, match="is damaged; remove the directory"):
        LayerDatabase(directory, model, dataset).weights(plan_of(model))


def test_a_file_that_is_no_database_is_refused(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "pruned.sqlite").write_text("not a database, but long enough to be read as the header of one" * 9)
    with pytest.raises(StorageError, match="cannot be opened: file is not a database"):
        LayerDatabase(tmp_path, model, dataset)


def test_data_that_do_not_fit_the_model_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="takes x"):
        LayerDatabase(tmp_path / "new", model, sentences(2))
    assert not (tmp_path / "new").exists()


def test_a_layer_that_cannot_have_a_choice_is_refused(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    database = LayerDatabase(tmp_path, model, dataset)
    with pytest.raises(PlanError, match=r"'grouped' cannot be channel@0\.5"):
        database.build({"grouped": [parse_choice("channel@0.5")]})
    assert database.entries() == {}


def test_a_full_disk_leaves_nothing_half_written(
    model: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    database = LayerDatabase(tmp_path, model, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match=r"cannot write .*: No space left on device; free room there"):
            database.build(WANTED)
    assert not files(tmp_path) and not database.entries()
    database.build(WANTED)
    assert len(database.entries()) == 4


def test_assembling_a_plan_of_many_layers_reads_each_file_once(
    built: Path, model: Model, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read(path))[1])
    LayerDatabase(built, model, dataset).weights(plan_of(model))
    assert len(reads) == 3


def test_samples_of_one_label_will_do(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    alike = dataset.subset(np.flatnonzero(dataset.labels == dataset.labels[0])[:1])
    database = LayerDatabase(tmp_path, model, alike)
    name = model.layers[0].name
    database.build({name: [parse_choice("unstructured@0.5")]})
    assert database.entries()[name, parse_choice("unstructured@0.5")].harm.divergence > 0


def test_what_makes_answers_infinite_is_kept_as_that(
    model: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sensitivity, "harm", lambda self, weight: Harm(np.inf, np.inf))
    database, name = LayerDatabase(tmp_path, model, dataset), model.layers[-1].name
    database.build({name: [NM]})
    assert database.entries()[name, NM].harm == Harm(np.inf, np.inf)
