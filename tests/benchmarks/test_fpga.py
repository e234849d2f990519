"""The accelerators' benchmark: what it draws is what it says, who is absent is named, and what it counts is counted."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import accelerator_artifacts, fpga, systolic
from benchmarks.accelerator_networks import Shape, distinct_products, draw_product, products
from benchmarks.networks import Network
from hwsparse.accelerator import compile_layer, lower_bounds, time_network
from hwsparse.codegen import random_inputs
from hwsparse.errors import InputError, MeasureError
from hwsparse.plan import Choice, parse_choice, parse_signature
from hwsparse.target import load_target
from tests.sparsify.test_quality import classifier

FIRST = parse_signature("conv 1x3x8x8 w8x3x3x3 s1x1 p1,1_1,1 d1x1 g1 float32")
SECOND = parse_signature("matmul 10x16 w24x16 float32")
SHAPE = Shape("minilm", (FIRST, SECOND), frozenset({SECOND.name}), ())


def asked(*words: str) -> Namespace:
    parser = ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    fpga.options(parser)
    return parser.parse_args(words)


def test_a_layer_is_drawn_with_as_many_zeros_as_its_choice_says() -> None:
    product = draw_product(SECOND, Choice(parse_choice("unstructured@0.75").pattern, 0.75, "int8"), 3)
    assert product.kept == 96 and product.weight.all() and product.weight.dtype == np.int8
    again = draw_product(SECOND, Choice(product.pattern, 0.75, "int8"), 3)
    assert np.array_equal(again.mask, product.mask)


def test_layers_that_cannot_have_a_pattern_stay_dense() -> None:
    whole = Shape("minilm", (FIRST, SECOND), frozenset({FIRST.name, SECOND.name}), ())
    kept = [each.kept / each.mask.size for each in products(whole, parse_choice("2:4"), 0)]
    assert kept == [1.0, 0.5]
    assert set(distinct_products([SHAPE])) == {(64, 8, 27), (10, 24, 16)}


def test_what_beats_a_bound_is_found_out() -> None:
    machine = load_target("fpga-sim").accelerator
    assert machine is not None
    product = draw_product(SECOND, Choice(dtype="int8"), 0)
    (timing,) = time_network(machine, [compile_layer(machine, product)]).layers
    assert not fpga._beaten(machine, product, timing)
    assert fpga._beaten(machine, product, replace(timing, cycles=lower_bounds(machine, product).cycles - 1))
    assert fpga._beaten(machine, product, replace(timing, cycles=timing.cycles + 1))  # the parts are not the whole


def test_figures_of_parts_that_did_not_run_are_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fpga, "BOUND_LAYERS", 5)
    figures, _ = fpga.run(asked("--parts", "bounds"))
    assert figures["bounds_beaten"] == 0 and math.isnan(figures["rtl_layers"])


def test_layers_run_on_the_hardware_are_counted() -> None:
    figures = fpga._hardware(Console(quiet=True), 3, 2)
    assert (figures["rtl_layers"], figures["rtl_mismatches"], figures["cycle_mismatches"]) == (3, 0, 0)


def test_a_network_is_timed_dense_and_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, name, batch=1: SHAPE))
    words = ("--parts", "networks", "--models", "minilm", "--target", "fpga-sim", "--choices", "unstructured@0.9")
    figures, details = fpga.run(asked(*words))
    assert isinstance(details, dict)
    dense, sparse = details["networks"]
    assert dense["speedup"] == 1 and sparse["speedup"] == dense["cycles"] / sparse["cycles"]
    assert figures["minilm_unstructured_90_speedup"] == sparse["speedup"] and figures["bounds_beaten"] == 0


def test_a_target_without_an_accelerator_is_refused() -> None:
    with pytest.raises(InputError, match=r"target x86-avx2 has no \[accelerator\]"):
        fpga.run(asked("--target", "x86-avx2"))


def test_a_peer_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    machine = load_target("fpga-sim").accelerator
    assert machine is not None
    off, _ = systolic.compare_with_peer(Console(), machine, None)
    assert math.isnan(off) and "give --scalesim PYTHON or set HWSPARSE_SCALESIM" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(MeasureError, match="is no Python that has scalesim"):
        systolic._scalesim(sys.executable, (4, 4), [(4, 4, 4)])
    with pytest.raises(MeasureError, match="cannot be asked"):
        systolic._scalesim(str(Path("/nowhere/python")), (4, 4), [(4, 4, 4)])


def test_skew_is_all_that_a_systolic_array_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    def folds(python: str, sides: tuple[int, int], asked: list[tuple[int, int, int]]) -> list[int]:
        return [-(-p // sides[0]) * -(-o // sides[1]) * (k + sum(sides) - 2) for p, o, k in asked]

    monkeypatch.setattr(systolic, "_scalesim", folds)
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, name, batch=1: SHAPE))
    machine = load_target("fpga-sim").accelerator
    assert machine is not None
    off, kept = systolic.compare_with_peer(Console(quiet=True), machine, "python")
    assert off > 0 and isinstance(kept, list)
    assert all(each["explained"] == each["theirs"] for each in kept)


def test_networks_are_compiled_run_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Network(lambda batch: classifier(), "every", lambda model, seed: random_inputs(model.inputs, seed))
    monkeypatch.setattr(accelerator_artifacts, "NETWORKS", {"resnet50": small})
    monkeypatch.setattr(accelerator_artifacts, "SAMPLES", 1)
    figures, details = fpga.run(asked("--parts", "artifacts", "--models", "resnet50", "--target", "fpga-sim"))
    assert isinstance(details, dict)
    dense, sparse = details["artifacts"]
    assert (dense["choice"], sparse["choice"]) == accelerator_artifacts.CHOICES
    assert sparse["accelerator_s"] < dense["accelerator_s"] and dense["host_s"] > 0
    assert figures["max_rel_err"] < 0.02 and dense["layers"] == dense["of_layers"] == len(classifier().layers)
