"""Whether a machine is too hot to run at its full clock, as Linux tells of it.

Zones of /sys/class/thermal have trip points, and at a passive one the system begins to lower clocks; cooling devices
say whether it does (Linux, Documentation/driver-api/thermal/sysfs-api.rst). On a Raspberry Pi the firmware lowers
them, and says so in bits (Raspberry Pi documentation, "vcgencmd", get_throttled).

Knows nothing of what runs there: by how much code is slower, the reference kernel tells.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hwsparse.latency.cores import SYS, clock_hz

# So near to a point where clocks are lowered, the next turn would reach it.
NEAR_C = 3.0
# With a governor that always asks for the highest clock, less than this share of it was taken away.
FULL_CLOCK = 0.95
HIGHEST = "performance"
LOWERING_TRIPS = ("passive", "hot", "critical")
FIRMWARE = "devices/platform/soc*/*firmware/get_throttled"
FIRMWARE_BITS = {0: "too low a voltage", 1: "a cap on the clock", 2: "throttling", 3: "its soft temperature limit"}


@dataclass(frozen=True, slots=True)
class Heat:
    """How hot a machine is, and how fast its clock may be; what the system does not tell is None or empty."""

    zone: str  # of those that lower clocks, the one nearest to where it does
    temperature_c: float | None
    trip_c: float | None
    clock_hz: int  # of the CPUs that run code, the slowest as it is now; 0: untold
    highest_hz: int  # that it may have, if nothing is too hot; 0: untold
    held_by: str  # what holds clocks down; empty: nothing

    @property
    def trouble(self) -> str | None:
        """Why code would run slower now than it can; None: it would not."""
        near = self.temperature_c is not None and self.trip_c is not None and self.temperature_c > self.trip_c - NEAR_C
        if not (near or self.held_by):
            return None
        told = []
        if self.held_by:
            told.append(f"its clock is held down by {self.held_by}")
        if self.temperature_c is not None:
            told.append(f"{self.zone} has {self.temperature_c:.0f} °C" + (f" of {self.trip_c:.0f}" if near else ""))
        if self.clock_hz and self.highest_hz:
            told.append(f"{self.clock_hz / 1e6:.0f} of {self.highest_hz / 1e6:.0f} MHz")
        return ", ".join(told)


def read_heat(cpus: Collection[int], sys: Path = SYS) -> Heat:
    """How hot this machine is.

    Args:
        cpus: those that run code.
    """
    zones = [found for path in sorted((sys / "class/thermal").glob("thermal_zone*")) if (found := _zone(path))]
    zone, temperature_c, trip_c = min(zones, key=lambda found: found[2] - found[1], default=("", None, None))
    now_hz, highest_hz = min(
        ((clock_hz(cpu, "scaling_cur_freq", sys), clock_hz(cpu, "cpuinfo_max_freq", sys)) for cpu in cpus),
        default=(0, 0),
    )
    return Heat(zone, temperature_c, trip_c, now_hz, highest_hz, _holder(cpus, sys))


def _zone(path: Path) -> tuple[str, float, float] | None:
    """A zone's name, its temperature and the lowest one at which it lowers clocks; None: it never does."""
    try:
        temperature_c = int(_text(path / "temp")) / 1000
        trips = [
            int(_text(trip.with_name(trip.name.replace("_type", "_temp")))) / 1000
            for trip in path.glob("trip_point_*_type")
            if _text(trip) in LOWERING_TRIPS
        ]
    except ValueError:  # a sensor that is off
        return None
    # Some zones have a trip at 0 or below that is turned off.
    lowest = min((trip for trip in trips if trip > 0), default=None)
    return None if lowest is None else (_text(path / "type") or path.name, temperature_c, lowest)


def _holder(cpus: Collection[int], sys: Path) -> str:
    """What holds clocks down: firmware, the system's cooling, or nobody knows what."""
    bits = next(map(_text, sys.glob(FIRMWARE)), "")
    try:
        told = [why for bit, why in FIRMWARE_BITS.items() if int(bits or "0", 16) >> bit & 1]
    except ValueError:
        told = []
    if told:
        return f"the firmware ({', '.join(told)})"
    for device in sorted((sys / "class/thermal").glob("cooling_device*")):
        kind = _text(device / "type")
        if ("cpufreq" in kind or kind == "Processor") and _text(device / "cur_state") not in ("", "0", "-1"):
            return f"the system's cooling ({kind})"
    for cpu in cpus:
        now_hz, most_hz = (clock_hz(cpu, name, sys) for name in ("scaling_cur_freq", "cpuinfo_max_freq"))
        capped_hz = clock_hz(cpu, "scaling_max_freq", sys)
        asked = _text(sys / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")
        if asked == HIGHEST and 0 < now_hz < FULL_CLOCK * min(capped_hz or most_hz, most_hz or capped_hz):
            return "something that the system does not tell of"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
