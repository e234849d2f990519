"""Bytes of networks, on networks whose bytes are known."""

from __future__ import annotations

import pytest

from hwsparse.errors import MeasureError
from hwsparse.latency import Footprint, Footprints, stored_bytes
from hwsparse.plan import Plan, parse_choice
from tests.latency.examples import conv, matmul
from tests.latency.test_cost_model import described, model


def test_what_layers_store_is_that_of_their_choices() -> None:
    net = model(matmul("a", outputs=8), matmul("b", outputs=32), conv("c"))
    dense = stored_bytes(net, Plan(net.digest), {}, described)
    assert dense == 4 * 16 * (8 + 32)  # the convolution has no kernel there
    half = Plan.of(net.digest, {"b": parse_choice("block4x1@0.5")})
    assert stored_bytes(net, half, {"b": "some kernel"}, described) == 4 * 16 * (8 + 16)


def test_a_networks_bytes_follow_from_what_its_layers_store() -> None:
    found = Footprints.fit((stored, Footprint(stored + 5e4, 1.5 * stored + 2e5)) for stored in (1e5, 2e5, 4e5))
    guess = found.predict(3e5)
    assert guess.file_bytes == pytest.approx(3.5e5)
    assert guess.memory_bytes == pytest.approx(6.5e5)


def test_a_system_that_tells_no_memory_leaves_it_open() -> None:
    found = Footprints.fit([(1e5, Footprint(2e5, None))])
    assert found.predict(2e5) == Footprint(3e5, None)


def test_nothing_weighed_tells_nothing() -> None:
    with pytest.raises(MeasureError, match="at least one measured network"):
        Footprints.fit([])
