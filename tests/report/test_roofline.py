"""What layers take on an accelerator, as a table and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hwsparse.accelerator import compile_layer, lay_out, time_network
from hwsparse.errors import HwsparseError
from hwsparse.plan import parse_signature
from hwsparse.report.roofline import LayerRun, NetworkRun, roofline_png, run_table
from hwsparse.target import load_target

HOSTILE = "[bold]$\\frac$ </b> " + "long " * 40
MACHINE = load_target("fpga-sim").accelerator
assert MACHINE is not None
SIGNATURES = ("conv 1x32x14x14 w32x32x3x3 s1x1 p1,1_1,1 d1x1 g1 float32", "matmul 1x64 w10x64 float32")


@pytest.fixture(scope="module")
def run() -> NetworkRun:
    """A convolution of which a fifth of the weights is kept, and a dense product of one position."""
    assert MACHINE is not None
    random = np.random.default_rng(0)
    layers = [replace(parse_signature(text), name=f"{HOSTILE}{at}") for at, text in enumerate(SIGNATURES)]
    masks = [random.random(layers[0].weight_shape) < 0.2, np.ones(layers[1].weight_shape, bool)]
    products = [lay_out(layer, np.ones(mask.shape, np.int8), mask) for layer, mask in zip(layers, masks, strict=True)]
    timings = time_network(MACHINE, [compile_layer(MACHINE, product) for product in products]).layers
    choices = ("unstructured@0.8/int8", "dense/int8")
    macs = [product.outputs * product.inputs * product.positions for product in products]
    found = (
        LayerRun.of(MACHINE, choice, MACHINE.rows, timing, whole)
        for choice, timing, whole in zip(choices, timings, macs, strict=True)
    )
    cycles = sum(timing.cycles for timing in timings)
    return NetworkRun(HOSTILE, MACHINE, tuple(found), ((HOSTILE, "depthwise"),), False, cycles, cycles)


def text_of(run: NetworkRun) -> str:
    console = Console(width=80, record=True)
    with console.capture() as taken:
        console.print(run_table(run))
    return taken.get()


def test_the_table_fits_a_terminal_and_adds_up(run: NetworkRun) -> None:
    lines = text_of(run).splitlines()
    assert max(map(len, lines)) <= 80
    first, second = (layer.timing for layer in run.layers)
    assert any(f"{first.cycles:,}" in line and "unstructured@0.8" in line for line in lines)
    assert any(f"{second.parts.bound_by} " in line and "dense" in line for line in lines)
    assert any("host: depthw" in line for line in lines)
    assert any(line.strip().startswith("accelerator") and f"{first.cycles + second.cycles:,}" in line for line in lines)


def test_a_pipeline_says_its_pace(run: NetworkRun) -> None:
    said = text_of(replace(run, pipelined=True, interval_cycles=123_000))
    assert "a pipeline: a sample every 123,000 cycles, 0.615 ms" in said


def test_what_is_reached_is_under_the_roofs(run: NetworkRun) -> None:
    """Of kept weights; of all that the dense layer has it may be more, which is what zeros are for."""
    machine = run.accelerator
    for layer in run.layers:
        roof = min(machine.peak_flops, layer.intensity * machine.bandwidth_bytes_per_s)
        assert 0 < layer.reached(machine, layer.timing.macs) <= roof
    sparse = run.layers[0]
    assert sparse.reached(machine, sparse.dense_macs) > machine.peak_flops
    assert run.seconds == pytest.approx(sum(layer.timing.cycles for layer in run.layers) / 200e6)


def test_the_picture_is_drawn_whole(run: NetworkRun, tmp_path: Path) -> None:
    roofline_png(run, tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as image:
        assert image.size == (1800, 1080)
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 50
    with pytest.raises(HwsparseError, match="cannot be written"):
        roofline_png(run, tmp_path / "nowhere" / "r.png")
