"""Clocks rise and fall: measurements of one device, made comparable by the reference kernel that ran beside each.

A small dense layer, whose data fit into the caches near the core, tells the clock's speed and little else. Raw samples
stay as they are.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from hwsparse.latency.measurement import Measurement


def usual_reference(measurements: Iterable[Measurement]) -> float | None:
    """What the reference kernel usually takes, in seconds; None if it was never timed."""
    known = [taken.reference_s for taken in measurements if taken.reference_s is not None]
    return statistics.median(known) if known else None


def slowness(taken: Measurement, usual_s: float | None) -> float:
    """How much slower than usual the clock was when a measurement was made; 1 if nothing tells."""
    return 1.0 if usual_s is None or taken.reference_s is None else taken.reference_s / usual_s
