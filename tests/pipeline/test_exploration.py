from __future__ import annotations

from dataclasses import replace

import pytest

from hwsparse.latency import Workload
from hwsparse.pipeline.exploration import lasts
from hwsparse.plan import Choice
from tests.latency.examples import TARGET, matmul, measurement

DENSE = Workload.of(matmul(), Choice(), TARGET)


@pytest.mark.parametrize(
    ("spread", "share", "kept"),
    [(0.0, 1.0, True), (0.019, 1.0, True), (0.03, 1.0, False), (0.0, 0.5, False)],
)
def test_what_is_known_well_and_was_timed_alone_is_kept(spread: float, share: float, kept: bool) -> None:
    """Half of the samples above the median, and as many below: its interval is as wide as they are apart."""
    taken = measurement(DENSE, *[1 - spread, 1.0, 1 + spread] * 10)
    assert lasts(replace(taken, cpu_share=share)) is kept
