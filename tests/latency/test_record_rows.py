from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency import RunSettings
from tests.latency.examples import DEVICE, measurement
from tests.latency.test_records import HALF, MOST, change, opened, table


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    opened(tmp_path / "r.db").close()
    change(tmp_path / "r.db", "UPDATE hwsparse_records SET version = 99")
    with pytest.raises(MeasureError, match="of version 99; this hwsparse knows version 8"):
        opened(tmp_path / "r.db")


def test_records_of_the_first_version_are_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as records:
        records.add(HALF, measurement(HALF, 1.0))
    for column in ("kernel", "reference_s", "cpu_share", "cache", "imported"):
        change(path, f"ALTER TABLE measurements DROP COLUMN {column}")
    change(path, "ALTER TABLE failures DROP COLUMN cache")
    change(path, "DROP TABLE networks")
    settings = (
        '{"threads": 1, "samples": 30, "rounds": 5, "warmup_s": 0.02, "min_sample_s": 0.0001, "timeout_s": 60.0, '
        '"tolerance": 0.001}'
    )
    change(path, "UPDATE measurements SET settings = ?", settings)
    change(path, "UPDATE measurements SET device = json_remove(device, '$.clock', '$.used')")
    change(path, "DROP INDEX measurements_known_by")
    change(path, "CREATE INDEX measurements_of_target ON measurements (target, threads, device_digest, toolchain)")
    change(path, "UPDATE hwsparse_records SET version = 1")
    with opened(path) as records:
        ((_, taken),) = records.every()
        assert (taken.kernel, taken.reference_s, taken.cpu_share) == (None, None, 1.0)
        assert taken.device == replace(DEVICE, clock="unknown")
        assert taken.settings == RunSettings(threads=1, samples=30, rounds=5, stretch=1)
        records.add(MOST, measurement(MOST, 1.0, kernel="some kernel"))
    with opened(path) as records:
        assert table(records)[MOST].kernel == "some kernel"
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
    connection.close()
    assert found == [("measurements_known_by",), ("networks_known_by",)]


def test_records_of_before_there_were_boards_are_of_the_same_device(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as records:
        records.add(HALF, measurement(HALF, 1.0))
    change(path, "UPDATE measurements SET device = json_remove(device, '$.used')")
    change(path, "UPDATE hwsparse_records SET version = 6")
    with opened(path) as records:
        records.add(MOST, measurement(MOST, 1.0))
        assert set(table(records)) == {HALF, MOST}
        (group,) = records.groups()  # told by the same text
        assert group.device == DEVICE and group.measurements == 2
