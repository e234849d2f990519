from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsparse.errors import InputError
from hwsparse.latency.cores import parse_cores, shown, used_cpus

# As of a phone: four little cores, three big ones and one that is faster still.
CAPACITIES = (250, 250, 250, 250, 600, 600, 600, 1024)
ALL = range(len(CAPACITIES))


def write(sys: Path, cpu: int, name: str, value: int) -> None:
    path = sys / f"devices/system/cpu/cpu{cpu}/{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    for cpu, capacity in enumerate(CAPACITIES):
        write(tmp_path, cpu, "cpu_capacity", capacity)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("4-7", (4, 5, 6, 7)),
        ("0,2-3", (0, 2, 3)),
        (" 5 ", (5,)),
        ("big", (7,)),
        ("little", (0, 1, 2, 3)),
        ("1,1", (1,)),
    ],
)
def test_cores_are_named_by_number_or_kind(phone: Path, text: str, named: tuple[int, ...]) -> None:
    assert parse_cores(text, ALL, phone) == named


def test_where_capacities_are_not_told_clocks_tell(tmp_path: Path) -> None:
    for cpu, khz in enumerate((1800000, 1800000, 2400000, 2400000)):
        write(tmp_path, cpu, "cpufreq/cpuinfo_max_freq", khz)
    assert parse_cores("big", range(4), tmp_path) == (2, 3)
    assert parse_cores("little", range(1, 4), tmp_path) == (1,)


@pytest.mark.parametrize("text", ["", "4-", "-4", "a", "1;2", "4 5", "4-7-9", "1.5", "BIG", "99999"])
def test_what_names_no_cores_is_refused(phone: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"--cores .*: give numbers as 4-7 or 0,2,3, or big or little"):
        parse_cores(text, ALL, phone)


def test_cores_that_cannot_be_told_apart_or_used_are_refused(phone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this process may use 0-7, not 8-9"):
        parse_cores("6-9", ALL, phone)
    with pytest.raises(InputError, match="7-4 runs backwards"):
        parse_cores("7-4", ALL, phone)
    with pytest.raises(InputError, match="all of 0-3 are alike; name them by number"):
        parse_cores("big", range(4), phone)
    with pytest.raises(InputError, match="does not tell which CPUs are little"):
        parse_cores("little", ALL, tmp_path / "none")


@given(st.sets(st.integers(0, 40), min_size=1))
def test_numbers_that_are_shown_are_read_again(cpus: set[int]) -> None:
    assert parse_cores(shown(cpus), range(41)) == tuple(sorted(cpus))


def test_cpus_are_told_with_the_highest_clocks_that_they_may_have(tmp_path: Path) -> None:
    assert used_cpus((4, 5), tmp_path) == "4-5"
    for cpu, khz in ((4, 2400000), (5, 2400000), (6, 2800000)):
        write(tmp_path, cpu, "cpufreq/scaling_max_freq", khz)
    assert used_cpus((4, 5), tmp_path) == "4-5 at 2400 MHz"
    assert used_cpus((4, 6), tmp_path) == "4,6 at 2800/2400 MHz"
