from __future__ import annotations

from pathlib import Path

import pytest

from hwsparse import strictjson
from hwsparse.latency.heat import Heat, read_heat

CPUFREQ = "devices/system/cpu/cpu4/cpufreq"


def write(sys: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (sys / name).parent.mkdir(parents=True, exist_ok=True)
        (sys / name).write_text(text + "\n")


@pytest.fixture
def cool(tmp_path: Path) -> Path:
    """A board at its full clock, whose first zone never lowers it."""
    write(
        tmp_path,
        {
            "class/thermal/thermal_zone0/type": "battery",
            "class/thermal/thermal_zone0/temp": "90000",
            "class/thermal/thermal_zone1/type": "cpu-thermal",
            "class/thermal/thermal_zone1/temp": "60500",
            "class/thermal/thermal_zone1/trip_point_0_type": "active",
            "class/thermal/thermal_zone1/trip_point_0_temp": "50000",
            "class/thermal/thermal_zone1/trip_point_1_type": "critical",
            "class/thermal/thermal_zone1/trip_point_1_temp": "110000",
            "class/thermal/thermal_zone1/trip_point_2_type": "passive",
            "class/thermal/thermal_zone1/trip_point_2_temp": "80000",
            "class/thermal/thermal_zone1/trip_point_3_type": "hot",
            "class/thermal/thermal_zone1/trip_point_3_temp": "-274000",
            "class/thermal/cooling_device0/type": "pwm-fan",
            "class/thermal/cooling_device0/cur_state": "3",
            "class/thermal/cooling_device1/type": "cpufreq-cpu0",
            "class/thermal/cooling_device1/cur_state": "0",
            f"{CPUFREQ}/scaling_governor": "ondemand",
            f"{CPUFREQ}/scaling_cur_freq": "1500000",
            f"{CPUFREQ}/scaling_max_freq": "2400000",
            f"{CPUFREQ}/cpuinfo_max_freq": "2400000",
        },
    )
    return tmp_path


def test_a_fan_that_turns_and_a_governor_that_rests_are_no_trouble(cool: Path) -> None:
    heat = read_heat((4,), cool)
    assert heat == Heat("cpu-thermal", 60.5, 80.0, 1_500_000_000, 2_400_000_000, "")
    assert heat.trouble is None
    assert strictjson.loads(Heat, strictjson.dumps(heat), "heat") == heat


def test_a_zone_near_to_where_it_lowers_the_clock_is_trouble(cool: Path) -> None:
    write(cool, {"class/thermal/thermal_zone1/temp": "76900"})
    assert read_heat((4,), cool).trouble is None
    write(cool, {"class/thermal/thermal_zone1/temp": "77100"})
    assert read_heat((4,), cool).trouble == "cpu-thermal has 77 °C of 80, 1500 of 2400 MHz"


def test_what_holds_the_clock_down_is_named(cool: Path) -> None:
    write(cool, {"class/thermal/cooling_device1/cur_state": "2"})
    held = "its clock is held down by the system's cooling (cpufreq-cpu0), cpu-thermal has 60 °C, 1500 of 2400 MHz"
    assert read_heat((4,), cool).trouble == held
    firmware = {"devices/platform/soc/soc:firmware/get_throttled": "50005"}
    write(cool, firmware)
    assert (read_heat((4,), cool).trouble or "").startswith(
        "its clock is held down by the firmware (too low a voltage, throttling)"
    )


def test_what_was_held_down_once_is_no_trouble_now(cool: Path) -> None:
    write(cool, {"devices/platform/soc/soc:firmware/get_throttled": "50000"})
    assert read_heat((4,), cool).trouble is None


def test_a_clock_below_what_a_governor_always_asks_for_is_trouble(cool: Path) -> None:
    write(cool, {f"{CPUFREQ}/scaling_governor": "performance"})
    assert "held down by something that the system does not tell of" in (read_heat((4,), cool).trouble or "")
    write(cool, {f"{CPUFREQ}/scaling_max_freq": "1500000"})  # as its owner wants it
    assert read_heat((4,), cool).trouble is None


def test_a_system_that_tells_nothing_is_not_hot(tmp_path: Path) -> None:
    assert read_heat((0,), tmp_path) == Heat("", None, None, 0, 0, "")
    write(tmp_path, {"class/thermal/thermal_zone0/temp": "no number", f"{CPUFREQ}/scaling_cur_freq": "<unknown>"})
    assert read_heat((4,), tmp_path).trouble is None
