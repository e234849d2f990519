"""Clocks rise and fall: measurements of one device, made comparable by the reference kernel that ran beside each.

A small dense layer, whose data fit into the caches near the core, tells the clock's speed and little else. Raw samples
stay as they are.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from hwsparse.latency.measurement import Measurement

# Samples of one run go together: another run, in another process, finds a layer's time elsewhere by up to so much,
# relative, beside what its samples tell (`python -m benchmarks latency --parts repeats`).
AGAIN = 0.02


def usual_reference(measurements: Iterable[Measurement]) -> float | None:
    """What the reference kernel usually takes, in seconds; None if it was never timed."""
    known = [taken.reference_s for taken in measurements if taken.reference_s is not None]
    return statistics.median(known) if known else None


def at_usual_clock(taken: Measurement, usual_s: float | None) -> tuple[float, tuple[float, float]]:
    """The quiet time of a measurement as it would be at the device's usual clock, and where another run may find it."""
    slower = slowness(taken, usual_s)
    low_s, high_s = taken.quiet_interval_s
    again = 0.0 if taken.is_exact else AGAIN
    return taken.quiet_s / slower, (low_s / slower * (1 - again), high_s / slower * (1 + again))


def slowness(taken: Measurement, usual_s: float | None) -> float:
    """How much slower than usual the clock was when a measurement was made; 1 if nothing tells."""
    return 1.0 if usual_s is None or taken.reference_s is None else taken.reference_s / usual_s
