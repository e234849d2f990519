from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine, event

from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import MeasureFailure, Measurement, Records, Toolchain, Workload
from hwsparse.latency.record_rows import KNOWN_BY
from hwsparse.latency.records import KeptFailure, RecordsFile
from hwsparse.pattern import Block
from hwsparse.plan import Choice
from tests.latency.examples import (
    DEVICE,
    NOON,
    SETTINGS,
    TARGET,
    TOOLCHAIN,
    matmul,
    measurement,
    measurements,
    workloads,
)

HALF = Workload.of(matmul(), Choice(Block(4), 0.5), TARGET)
MOST = Workload.of(matmul(), Choice(Block(4), 0.9), TARGET)


def opened(path: Path, device=DEVICE, toolchain: Toolchain = TOOLCHAIN) -> Records:
    return Records(path, device, toolchain)


def table(records: Records) -> dict[Workload, Measurement]:
    return records.table(TARGET.name, TARGET.threads)


def change(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """SQLite gives the same error at its page limit as on a full disk."""

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 12")

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


@given(workloads, measurements)
@hypothesis_settings(max_examples=40, deadline=None)
def test_what_is_added_is_found_as_it_was(workload: Workload, taken: Measurement) -> None:
    taken = replace(taken, key=workload.key)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "records.db"
        with opened(path, taken.device, taken.toolchain) as records:
            records.add(workload, taken)
        with opened(path, taken.device, taken.toolchain) as records:
            found = records.table(
                workload.target_name, workload.threads, taken.settings.cache, source=taken.source,
                imported=taken.imported,
            )  # fmt: skip
            assert found == {workload: taken}


def test_times_are_kept_whatever_their_zone(tmp_path: Path) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0, taken_at=there))
        assert table(records)[HALF].taken_at == NOON


def test_the_latest_measurement_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        for seconds in (1.0, 2.0):
            records.add(HALF, measurement(HALF, seconds))
        assert table(records)[HALF].median_s == 2.0


@pytest.mark.parametrize(
    "other",
    [
        {"device": replace(DEVICE, cpu="another")},
        {"toolchain": replace(TOOLCHAIN, kernels="2")},
        {"toolchain": replace(TOOLCHAIN, tvm="0.28")},
        {"toolchain": replace(TOOLCHAIN, target="other code")},
    ],
)
def test_nothing_of_another_device_or_toolchain_is_given_out(tmp_path: Path, other: dict[str, object]) -> None:
    path = tmp_path / "r.db"
    with opened(path) as records:
        records.add(HALF, measurement(HALF, 1.0))
    with opened(path, **other) as records:  # type: ignore[arg-type]
        assert table(records) == {}
    with opened(path) as records:
        assert list(table(records)) == [HALF]


def test_a_system_update_keeps_the_records_and_the_fingerprint_they_were_made_with(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
    with opened(tmp_path / "r.db", replace(DEVICE, system="Linux 7.0")) as records:
        assert table(records)[HALF].device == DEVICE


def test_nothing_of_another_target_or_thread_count_is_given_out(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
        assert records.table("other", TARGET.threads) == {}
        assert records.table(TARGET.name, TARGET.threads + 1) == {}


def test_cold_and_warm_measurements_and_those_of_others_are_kept_apart(tmp_path: Path) -> None:
    cold = replace(SETTINGS, cache="cold")
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
        records.add(HALF, measurement(HALF, 2.0, settings=cold))
        assert records.take_in([(HALF, measurement(HALF, 3.0))]) == 1
        assert records.table(TARGET.name, 1)[HALF].median_s == 1.0
        assert records.table(TARGET.name, 1, "cold")[HALF].median_s == 2.0
        assert records.table(TARGET.name, 1, imported=True)[HALF] == measurement(HALF, 3.0, imported=True)


def test_what_is_taken_in_twice_counts_once(tmp_path: Path) -> None:
    shared = [(HALF, measurement(HALF, 1.0)), (MOST, measurement(MOST, 2.0))]
    with opened(tmp_path / "r.db") as records:
        assert records.take_in(shared) == 2
        assert records.take_in([*shared, (HALF, measurement(HALF, 3.0))]) == 1
        assert [taken.median_s for _, taken in records.every()] == [1.0, 2.0, 3.0]


def many(count: int) -> list[tuple[Workload, Measurement]]:
    """As many measurements, each of a workload of its own."""
    found = [Workload("s", Choice(Block(4), at / count), TARGET.name, TARGET.threads) for at in range(count)]
    return [(workload, measurement(workload, 1.0)) for workload in found]


def test_others_write_while_measurements_are_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsparse.sqlitefile.BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr("hwsparse.latency.records.CHUNK", 10)

    def meanwhile(other: Records) -> Iterator[tuple[Workload, Measurement]]:
        for at, each in enumerate(many(35)):
            if at % 5 == 0:
                other.add(HALF, measurement(HALF, float(at + 1)))
            yield each

    with opened(tmp_path / "r.db") as records, opened(tmp_path / "r.db") as other:
        assert records.take_in(meanwhile(other)) == 35
        assert len(list(records.every())) == 35 + 7
        assert table(records)[HALF].median_s == 31.0


@pytest.mark.parametrize("error", [InputError("line 26 is no measurement"), KeyboardInterrupt()])
def test_what_is_interrupted_goes_on_and_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr("hwsparse.latency.records.CHUNK", 10)

    def failing() -> Iterator[tuple[Workload, Measurement]]:
        yield from many(25)
        raise error

    with opened(tmp_path / "r.db") as records:
        with pytest.raises(type(error)):
            records.take_in(failing())
        assert len(list(records.every())) == 20
        assert records.take_in(many(25)) == 5
        assert [workload for workload, _ in records.every()] == [workload for workload, _ in many(25)]


def test_some_are_added_whole_or_not_at_all(tmp_path: Path, small_disk: None) -> None:
    with opened(tmp_path / "r.db") as records:
        with pytest.raises(MeasureError, match=r"cannot be written: database or disk is full$"):
            records.take_in(many(400))
        assert list(records.every()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"taken_at": NOON + timedelta(microseconds=1)},
        {"samples_s": (1.0,) * 7},
        {"device": replace(DEVICE, cpu="another")},
        {"toolchain": replace(TOOLCHAIN, kernels="2")},
    ],
)
def test_what_differs_in_what_it_is_known_by_is_another_measurement(tmp_path: Path, changed: dict[str, object]) -> None:
    first = measurement(HALF, 1.0)
    with opened(tmp_path / "r.db") as records:
        assert records.take_in([(HALF, first), (HALF, replace(first, **changed))]) == 2  # type: ignore[arg-type]
        assert records.take_in([(HALF, replace(first, **changed)), (HALF, first)]) == 0  # type: ignore[arg-type]


def test_a_measurement_is_found_without_looking_at_others(tmp_path: Path) -> None:
    """Or taking many in would hold others up for ever longer."""
    opened(tmp_path / "r.db").close()
    connection = sqlite3.connect(tmp_path / "r.db")
    same = " AND ".join(f"{name} = ?" for name in KNOWN_BY)
    query = f"EXPLAIN QUERY PLAN SELECT id FROM measurements WHERE {same} AND samples = ?"
    ((*_, plan),) = connection.execute(query, [""] * (len(KNOWN_BY) + 1)).fetchall()
    connection.close()
    assert "workload=? AND taken_at=?" in plan


def test_groups_say_what_there_is_and_others_can_be_removed(tmp_path: Path) -> None:
    elsewhere = replace(DEVICE, cpu="another")
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
        records.add(HALF, measurement(HALF, 2.0, taken_at=NOON + timedelta(hours=1)))
        records.add(MOST, measurement(MOST, 1.0))
    with opened(tmp_path / "r.db", elsewhere) as records:
        records.add(HALF, measurement(HALF, 9.0, device=elsewhere))
    with RecordsFile(tmp_path / "r.db") as file:
        found = {
            group.device.cpu: (group.measurements, group.workloads, group.first, group.last) for group in file.groups()
        }
        assert found == {
            DEVICE.cpu: (3, 2, NOON, NOON + timedelta(hours=1)),
            "another": (1, 1, NOON, NOON),
        }
        assert file.remove(unless=lambda group: group.device == DEVICE) == 1
        assert [group.device for group in file.groups()] == [DEVICE]
    with opened(tmp_path / "r.db") as records:
        assert table(records)[HALF].median_s == 2.0


def test_failures_go_with_the_last_measurement_made_beside_them(tmp_path: Path) -> None:
    elsewhere, failure = replace(DEVICE, cpu="another"), MeasureFailure(MOST.key, "run", "no")
    for device in (DEVICE, elsewhere):
        with opened(tmp_path / "r.db", device) as records:
            records.add(HALF, measurement(HALF, 1.0, device=device))
            records.add_failure(MOST, failure, NOON)
    with RecordsFile(tmp_path / "r.db") as file:
        file.remove(unless=lambda group: group.device == DEVICE)
        assert [(each.workload, each.failure, each.device) for each in file.failures()] == [(MOST, failure, DEVICE)]


def test_failures_beside_which_nothing_was_measured_go_when_all_goes(tmp_path: Path) -> None:
    elsewhere, failure = replace(DEVICE, cpu="another"), MeasureFailure(MOST.key, "run", "no")
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
    with opened(tmp_path / "r.db", elsewhere) as records:
        records.add_failure(MOST, failure, NOON)
    with RecordsFile(tmp_path / "r.db") as file:
        assert file.remove(unless=lambda group: True) == 0
        assert [each.device for each in file.failures()] == [elsewhere]
        assert file.remove(unless=lambda group: False) == 1
        assert not list(file.failures())


def test_a_measurement_of_something_else_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        with pytest.raises(MeasureError, match="is none of"):
            records.add(HALF, measurement(MOST, 1.0))
        with pytest.raises(MeasureError, match="another device or with another toolchain"):
            records.add(HALF, measurement(HALF, 1.0, toolchain=replace(TOOLCHAIN, kernels="0")))
        assert table(records) == {}


def test_failures_are_kept_with_stage_and_reason(tmp_path: Path) -> None:
    failure = MeasureFailure(HALF.key, "timeout", "no answer within 60 s")
    with opened(tmp_path / "r.db") as records:
        records.add_failure(HALF, failure, NOON)
        assert records.failures() == (KeptFailure(HALF, failure, DEVICE, TOOLCHAIN, NOON, measured_since=False),)
        assert table(records) == {}


def test_the_latest_failure_counts_and_whether_it_was_measured_since(tmp_path: Path) -> None:
    hour, elsewhere = timedelta(hours=1), replace(DEVICE, cpu="another")
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
        for at, reason in enumerate(("first", "second")):
            records.add_failure(HALF, MeasureFailure(HALF.key, "run", reason), NOON + at * hour)
        records.add_failure(MOST, MeasureFailure(MOST.key, "run", "other"), NOON)
        records.add(MOST, measurement(MOST, 1.0, taken_at=NOON + hour))
    with opened(tmp_path / "r.db", elsewhere) as records:
        records.add_failure(HALF, MeasureFailure(HALF.key, "check", "wrong"), NOON)
        records.add(HALF, measurement(HALF, 1.0, device=elsewhere, taken_at=NOON + hour))
        found = [(each.workload, each.failure.reason, each.measured_since) for each in records.failures()]
        assert found == [(HALF, "second", False), (MOST, "other", True), (HALF, "wrong", True)]
        assert len(records.failures(TARGET.name)) == 3
        assert records.failures("other") == ()


def test_directories_on_the_way_are_made(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b" / "r.db") as records:
        assert table(records) == {}


def test_many_open_and_write_one_file_at_once(tmp_path: Path) -> None:
    """Each with connections of its own, as processes have."""

    def work(number: int) -> None:
        with opened(tmp_path / "r.db") as records:
            for ratio in range(5):
                workload = Workload("s", Choice(Block(4), (10 * number + ratio) / 100), TARGET.name, TARGET.threads)
                records.add(workload, measurement(workload, 1.0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with opened(tmp_path / "r.db") as records:
        assert len(table(records)) == 40


def test_a_file_that_is_no_database_is_one_clear_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    path.write_text("not a database, but somebody's notes\n" * 100)
    with pytest.raises(MeasureError, match=r"r\.db: cannot be opened: file is not a database$"):
        opened(path)
    assert path.read_text().startswith("not a database")


def test_a_database_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    change(path, "CREATE TABLE studies (id INTEGER)")
    with pytest.raises(MeasureError, match="a database, but not of measurements"):
        opened(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("studies",)]
    connection.close()


def test_a_truncated_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as records:
        for _ in range(20):
            records.add(HALF, measurement(HALF, 1.0))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MeasureError, match=r"r\.db: cannot be (opened|read): "), opened(path) as records:
        table(records)


def test_a_directory_in_its_place_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="cannot be opened: unable to open database file"):
        opened(tmp_path)


def test_a_file_among_its_directories_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeasureError, match="cannot be opened: "):
        opened(tmp_path / "file" / "r.db")


def test_a_full_disk_is_one_clear_error_and_what_was_written_stays(tmp_path: Path, small_disk: None) -> None:
    written: list[float] = []

    def fill(records: Records) -> None:
        for seconds in range(1, 100):
            records.add(HALF, measurement(HALF, float(seconds), *[1 / 3] * 50))
            written.append(float(seconds))

    with opened(tmp_path / "r.db") as records:
        with pytest.raises(MeasureError, match=r"r\.db: cannot be written: database or disk is full$"):
            fill(records)
        assert written
        assert table(records)[HALF].samples_s[0] == written[-1]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("samples", "[]"), ("samples", '{"samples_s": [1, 2, 3, 4, 5, -6]}'), ("samples", '{"samples_s": [1]}'),
        ("samples", '{"samples_s": [1, 2, 3, 4, 5, NaN]}'), ("samples", b"\xff"), ("samples", 7),
        ("settings", "{}"), ("settings", '{"threads": 0}'),
        ("device", '{"machine": "x"}'), ("choice", "block4x1@2"), ("choice", "no pattern"), ("signature", "other"),
        ("taken_at", "yesterday"), ("taken_at", "2026-01-01T00:00:00"), ("taken_at", 5),
    ],
)  # fmt: skip
def test_a_malformed_row_is_said_not_used(tmp_path: Path, column: str, value: object) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
    change(tmp_path / "r.db", f"UPDATE measurements SET {column} = ?", value)
    malformed = pytest.raises(MeasureError, match=r"r\.db: row 1 of measurements is malformed: ")
    with opened(tmp_path / "r.db") as records, malformed:
        table(records)


@pytest.mark.parametrize(
    ("column", "value"), [("device", "{}"), ("toolchain", "x"), ("taken_at", "now"), ("taken_at", 5)]
)
def test_a_malformed_group_is_said(tmp_path: Path, column: str, value: object) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 1.0))
    change(tmp_path / "r.db", f"UPDATE measurements SET {column} = ?", value)
    with (
        RecordsFile(tmp_path / "r.db") as file,
        pytest.raises(MeasureError, match=r"r\.db: rows of test-cpu is malformed"),
    ):
        file.groups()


def test_a_malformed_failure_is_said_not_used(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add_failure(HALF, MeasureFailure(HALF.key, "run", "no"), NOON)
    change(tmp_path / "r.db", "UPDATE failures SET stage = 'luck'")
    malformed = pytest.raises(MeasureError, match=r"r\.db: row 1 of failures is malformed: .*'luck' is no stage")
    with opened(tmp_path / "r.db") as records, malformed:
        records.failures()


def test_what_is_damaged_can_be_removed_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as records:
        for seconds in (1.0, 2.0, 3.0, 4.0):
            records.add(HALF, measurement(HALF, seconds))
        for reason in ("no", "never"):
            records.add_failure(MOST, MeasureFailure(MOST.key, "run", reason), NOON)
        assert records.remove_damaged() == 0
    change(path, "UPDATE measurements SET samples = 'x' WHERE id = 2")
    change(path, "UPDATE measurements SET device = '{}' WHERE id = 4")
    change(path, "UPDATE failures SET stage = 'luck' WHERE id = 2")
    with opened(path) as records:
        with pytest.raises(MeasureError, match=r"; `hwsparse records prune --damaged` removes what cannot be read$"):
            list(records.every())
        assert records.remove_damaged() == 3
        assert [taken.median_s for _, taken in records.every()] == [1.0, 3.0]
        assert [each.failure.reason for each in records.failures()] == ["no"]
        assert len(records.groups()) == 1


def test_a_failure_with_cold_caches_is_not_made_good_with_warm_ones_nor_by_others(tmp_path: Path) -> None:
    later = NOON + timedelta(hours=1)
    with opened(tmp_path / "r.db") as records:
        records.add_failure(HALF, MeasureFailure(HALF.key, "run", "no"), NOON, "cold")
        records.add(HALF, measurement(HALF, 1.0, taken_at=later))
        records.add_failure(MOST, MeasureFailure(MOST.key, "run", "no"), NOON)
        records.take_in([(MOST, measurement(MOST, 1.0, taken_at=later))])
        assert [each.measured_since for each in records.failures()] == [False, False]
        cold = replace(SETTINGS, cache="cold")
        records.add(HALF, measurement(HALF, 1.0, taken_at=later, settings=cold))
        assert [each.measured_since for each in records.failures()] == [True, False]


def test_raw_samples_can_be_read_without_hwsparse(tmp_path: Path) -> None:
    with opened(tmp_path / "r.db") as records:
        records.add(HALF, measurement(HALF, 0.1, 0.2))
    connection = sqlite3.connect(tmp_path / "r.db")
    query = "SELECT choice, kernel_version, source, samples FROM measurements"
    ((choice, version, source, samples),) = connection.execute(query).fetchall()
    connection.close()
    assert (choice, version, source) == ("block4x1@0.5", "1", "measured")
    assert json.loads(samples)["samples_s"][:2] == [0.1, 0.2]
