from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency import Footprint, KnownNetwork, NetworkRecords, Toolchain, Workload
from hwsparse.latency.records import RecordsFile
from hwsparse.plan import Choice
from tests.latency.examples import DEVICE, NOON, TARGET, TOOLCHAIN, matmul, measurement
from tests.latency.test_records import change, opened

DENSE = Workload.of(matmul(), Choice(), TARGET)


def networks(path: Path, device=DEVICE, toolchain: Toolchain = TOOLCHAIN, threads: int = 1) -> NetworkRecords:
    return NetworkRecords(path, device, toolchain, TARGET.name, threads)


def network(name: str, seconds: float, memory_bytes: float | None = 2e6) -> KnownNetwork:
    return KnownNetwork(replace(measurement(DENSE, seconds), key=name, kernel=None), Footprint(1e6, memory_bytes))


def test_the_latest_of_a_network_is_found_again(tmp_path: Path) -> None:
    first, second, other = network("one", 1.0), network("one", 2.0, None), network("other", 3.0)
    with networks(tmp_path / "r.db") as records:
        assert records.find("one") is None
        for each in (first, second, other):
            records.add(each)
    with networks(tmp_path / "r.db") as records:
        assert records.find("one") == second
        assert records.find("other") == other
        assert records.find("none") is None


def test_of_another_device_toolchain_or_number_of_threads_nothing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with networks(path) as records:
        records.add(network("one", 1.0))
    others = (
        {"device": replace(DEVICE, cpu="another")},
        {"toolchain": replace(TOOLCHAIN, kernels="another")},
        {"threads": 2},
    )
    for other in others:
        with networks(path, **other) as records:
            assert records.find("one") is None


def test_networks_are_no_measurements_of_layers(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with networks(path) as records:
        records.add(network("one", 1.0))
    with opened(path) as layers:
        assert list(layers.every()) == [] and layers.groups() == ()


def test_networks_go_with_the_last_measurement_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as layers, networks(path) as records:
        records.add(network("one", 1.0))
        layers.add(DENSE, measurement(DENSE, 1.0))
        assert layers.remove(unless=lambda group: True) == 0
        assert records.find("one") is not None
        assert layers.remove(unless=lambda group: False) == 1
        assert records.find("one") is None


def test_a_damaged_network_is_one_clear_error_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with networks(path) as records:
        records.add(network("damaged", 1.0))
        records.add(network("whole", 2.0))
    change(path, "UPDATE networks SET samples = 'none' WHERE network = 'damaged'")
    with networks(path) as records:
        with pytest.raises(MeasureError, match=r"row 1 of networks is malformed: .*records prune --damaged"):
            records.find("damaged")
        with RecordsFile(path) as file:
            assert file.remove_damaged() == 1
        assert records.find("damaged") is None and records.find("whole") is not None


def test_a_file_without_networks_receives_them(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with opened(path) as layers:
        layers.add(DENSE, measurement(DENSE, 1.0))
    change(path, "DROP TABLE networks")
    change(path, "UPDATE hwsparse_records SET version = 7")
    later = network("one", 1.0)
    later = later._replace(taken=replace(later.taken, taken_at=NOON + timedelta(hours=1)))
    with networks(path) as records:
        records.add(later)
        assert records.find("one") == later
