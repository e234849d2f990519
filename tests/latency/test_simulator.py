"""Libraries timed on the simulated accelerator: what is counted, and what the host is measured to take beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from hwsparse.accelerator import compile_layer, lay_out, time_network
from hwsparse.codegen import Library, build_layer, build_model, random_inputs
from hwsparse.codegen.fpga import calls
from hwsparse.errors import UnsupportedError
from hwsparse.latency import LocalRunner, MeasureFailure, Measurement, RunSettings, Toolchain
from hwsparse.latency.contender import LOADER, Contender
from hwsparse.latency.drift import at_usual_clock
from hwsparse.plan import Choice, parse_choice
from hwsparse.target import load_target
from tests.codegen.layers import conv
from tests.codegen.test_int8_networks import in_bytes
from tests.codegen.test_networks import convolutional

TARGET = load_target("fpga-sim")
assert TARGET.accelerator is not None
MACHINE = TARGET.accelerator
LAYER = conv(1, 32, (14, 13), 48, (3, 3), pads=((1, 1), (1, 1)))
INT8 = Choice(dtype="int8")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network, of which the host has a depthwise layer, pooling and the softmax."""
    directory = tmp_path_factory.mktemp("network")
    drawn = (convolutional(1, seed) for seed in count(1))
    model = next(each for each in drawn if len(in_bytes(each, "unstructured@0.7")[0].choices) >= 4)
    build_model(model, *in_bytes(model, "unstructured@0.7"), TARGET, directory)
    return directory


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    toolchain = Toolchain.of(TARGET, "test")
    with LocalRunner(toolchain, lambda: datetime.now(timezone.utc), loader=LOADER) as made:
        yield made


def test_a_layer_alone_takes_what_is_counted_every_time(tmp_path: Path) -> None:
    build_layer(LAYER, INT8, TARGET, tmp_path)
    weight = np.ones(LAYER.weight_shape, np.int8)
    program = compile_layer(MACHINE, lay_out(LAYER, weight, weight > 0))
    expected = time_network(MACHINE, [program]).latency_s(MACHINE)
    assert Contender.load(tmp_path, 1).time(3, 5) == (expected,) * 3


def test_a_network_takes_its_layers_and_what_its_host_does(network: Path) -> None:
    library = Library.load(network, 1)
    assert library.accelerated is not None and library.accelerated.has_host
    counted = time_network(MACHINE, list(library.accelerated.programs.values())).latency_s(MACHINE)
    assert all(sample > counted for sample in Contender.load(network, 1).time(3, 2))


def test_what_the_simulator_takes_here_is_not_the_hosts(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a layer simulated while the host is timed, it would be found out."""
    simulated = Contender.load(network, 1)

    def never(*arguments: object) -> None:
        raise AssertionError("simulated")

    monkeypatch.setattr(calls, "_run_layer", never)
    assert simulated.time(2, 3) and Library.load(network, 1, host_alone=True).time(1)
    library = Library.load(network, 1)  # whose calls are again what they were
    with pytest.raises(Exception, match="simulated"):
        library.run(random_inputs(library.inputs))


def test_outputs_are_right_again_after_timing(network: Path) -> None:
    library, simulated = Library.load(network, 1), Contender.load(network, 1)
    inputs = random_inputs(library.inputs)
    expected = library.run(inputs)
    simulated.time(2)
    for name, value in library.run(inputs).items():
        assert np.array_equal(value, expected[name])


def test_measurements_say_that_they_are_simulated(runner: LocalRunner, network: Path, tmp_path: Path) -> None:
    build_layer(LAYER, parse_choice("unstructured@0.9/int8"), TARGET, tmp_path)
    settings = RunSettings(threads=1, samples=6, rounds=2)
    found = runner.run_many({"layer": tmp_path, "network": network}, settings)
    for taken in found.values():
        assert isinstance(taken, Measurement) and taken.source == "simulated"
    layer = found["layer"]
    assert isinstance(layer, Measurement) and layer.is_exact and layer.reference_s is None
    # Whatever this machine's clock does, it takes as long.
    assert at_usual_clock(layer, 1.0) == (layer.median_s, (layer.median_s, layer.median_s))


def test_memory_of_the_simulator_is_not_told_as_the_devices(runner: LocalRunner, network: Path) -> None:
    found = runner.peak_memory("network", network, RunSettings(threads=1))
    assert isinstance(found, MeasureFailure) and "not what the device would" in found.reason


def test_a_pipeline_is_told_by_its_pace(tmp_path: Path) -> None:
    """A network of two layers of which the slower one sets it, and the host, a stage of its own."""
    target = replace(TARGET, pipelined=True)
    for directory, made_for in (("one", TARGET), ("side", target)):
        (tmp_path / directory).mkdir()
        build_layer(LAYER, INT8, made_for, tmp_path / directory)
    # Alone it has the whole array, and what goes in and out is all that memory carries.
    alone, piped = (Contender.load(tmp_path / directory, 1).time(1)[0] for directory in ("one", "side"))
    assert 0 < piped < alone
    library = Library.load(tmp_path / "side", 1)
    assert library.accelerated is not None and library.accelerated.pipelined
    assert piped == library.accelerated.timed().interval_s(MACHINE)


def test_a_pipeline_without_room_is_refused(network: Path) -> None:
    description = json.loads((network / "library.json").read_text())
    try:
        (network / "library.json").write_text(json.dumps(description | {"pipelined": True}))
        with pytest.raises(UnsupportedError, match=r"a pipeline of [5-9] layers needs as many copies of inputs"):
            Contender.load(network, 1)
    finally:
        (network / "library.json").write_text(json.dumps(description))
