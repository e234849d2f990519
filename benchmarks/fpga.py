"""What the simulated accelerators' figures are worth, and what sparsity is worth on them. Nothing here is timed but
the simulator, and the host of compiled networks: cycles are counted, by the same rules on every machine.

    hardware     small random layers run on the hardware description: results, and cycles of passes and layers
    bounds       that no layer, random or of a network, takes less than its multiply-adds, bytes or outputs must
    peer         cycles of ResNet-50's dense layers against SCALE-Sim's for an array of the same size
    networks     ResNet-50 and MiniLM, pruned, against dense on the same machine, and what the cycles went to
    artifacts    both networks compiled through TVM, dense and 90 % unstructured: their answers, and what they take
    speed        how long the simulator takes for ResNet-50, every layer but the first and last 80 % unstructured
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accelerator_artifacts import artifacts
from benchmarks.accelerator_layers import draw_layer, draw_machine, reference_sums
from benchmarks.accelerator_networks import Shape, compiled, products
from benchmarks.systolic import compare_with_peer
from hwsparse.accelerator import (
    Accelerator,
    Parts,
    Product,
    Run,
    Timing,
    compile_layer,
    estimate_energy,
    lower_bounds,
    read_stream,
    run_program,
    time_network,
    write_stream,
)
from hwsparse.accelerator.passes import time_passes
from hwsparse.accelerator.timing import time_layer
from hwsparse.errors import InputError
from hwsparse.plan import Choice, parse_choice
from hwsparse.target import load_target

CHOICES = (
    "unstructured@0.5", "unstructured@0.7", "unstructured@0.8", "unstructured@0.9", "unstructured@0.95",
    "2:4", "1:4", "1:8", "1:16", "block4x1@0.5", "block4x1@0.8", "block4x1@0.9", "block4x1@0.95",
)  # fmt: skip
TARGETS = ("fpga-edge", "fpga-sim", "fpga-s4")
SPEED_CHOICE = "unstructured@0.8"
PARTS = ("hardware", "bounds", "peer", "networks", "artifacts", "speed")
# Layers that one array runs, one after the other: to build it takes seconds.
LAYERS_A_MACHINE = 8
BOUND_LAYERS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """A network under a choice on a machine."""

    target: str
    network: str
    choice: str
    cycles: int
    speedup: float  # over the network dense on the same machine
    parts: Parts
    energy_j: tuple[float, float]


def options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this benchmark asks for."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--layers", type=int, default=240, help="random layers on the hardware description")
    parser.add_argument("--target", nargs="+", default=TARGETS, help="accelerators that networks are timed on")
    parser.add_argument("--models", nargs="+", choices=("resnet50", "minilm"), default=["resnet50", "minilm"])
    parser.add_argument("--batch", type=int, default=1, help="samples that networks are given at once")
    parser.add_argument("--choices", nargs="+", default=CHOICES, help="what their layers are pruned to")
    parser.add_argument(
        "--scalesim",
        metavar="PYTHON",
        default=os.environ.get("HWSPARSE_SCALESIM"),
        help="a Python that has scalesim; by default $HWSPARSE_SCALESIM",
    )


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Runs the parts that are asked for; figures of the others are NaN.

    Raises:
        InputError: a target that has no accelerator, or a choice that is none.
    """
    console = Console(highlight=False)
    machines = {name: _machine(name) for name in arguments.target}
    choices = [Choice(choice.pattern, choice.ratio, "int8") for choice in map(parse_choice, arguments.choices)]
    figures = dict.fromkeys(
        (
            "rtl_layers",
            "rtl_mismatches",
            "cycle_mismatches",
            "layers_beyond_bound",
            "layer_cycles_off",
            "bounds_beaten",
            "scalesim_err",
            "max_rel_err",
            "resnet50_sim_s",
        ),
        math.nan,
    )
    details: dict[str, object] = {}
    if "hardware" in arguments.parts:
        figures |= _hardware(console, arguments.layers, arguments.seed)
    if "bounds" in arguments.parts:
        figures["bounds_beaten"] = float(sum(_random_bounds(arguments.seed)))
    if "peer" in arguments.parts:
        figures["scalesim_err"], details["peer"] = compare_with_peer(console, _machine("fpga-sim"), arguments.scalesim)
    if "networks" in arguments.parts:
        rows, beaten = _networks(console, machines, arguments, choices)
        details["networks"] = [asdict(row) for row in rows]
        figures["bounds_beaten"] = beaten + np.nan_to_num(figures["bounds_beaten"])
        figures |= _headline(rows)
    if "artifacts" in arguments.parts:
        built = artifacts(console, arguments.models, arguments.target, arguments.seed)
        details["artifacts"] = [asdict(each) for each in built]
        figures["max_rel_err"] = max(each.error for each in built)
    if "speed" in arguments.parts:
        figures["resnet50_sim_s"] = _speed(console, arguments.seed)
    return figures, details


def _machine(name: str) -> Accelerator:
    found = load_target(name).accelerator
    if found is None:
        raise InputError(f"target {name} has no [accelerator] in its descriptor")
    return found


def _hardware(console: Console, layers: int, seed: int) -> dict[str, float]:
    """Random layers on random machines, decoded from their streams, against numpy and against the timing model."""
    try:
        from hwsparse.accelerator.rtl import run_layers
    except ImportError:
        console.print("hardware: left out, it needs Amaranth (pip install 'hwsparse\\[rtl]')")
        return {}
    random = np.random.default_rng(seed)
    done, passes_done, wrong, late, beyond, off, total = 0, 0, 0, 0, 0, 0, 0
    while done < layers:
        machine = draw_machine(random)
        drawn = [draw_layer(random, most_size=3) for _ in range(min(LAYERS_A_MACHINE, layers - done))]
        streams = [write_stream(machine, compile_layer(machine, each.product)) for each in drawn]
        programs = [read_stream(machine, stream) for stream in streams]
        found = run_layers(machine, [(program, each.inputs) for program, each in zip(programs, drawn, strict=True)])
        for each, program, passes, hardware in zip(drawn, programs, time_passes(machine, programs), found, strict=True):
            expected = reference_sums(each.product, each.inputs)
            right = np.array_equal(hardware.sums, expected) and np.array_equal(
                run_program(program, each.inputs), expected
            )
            wrong += not right
            late += bool((hardware.cycles != passes.cycles).any())
            passes_done += hardware.cycles.size
            apart = abs(hardware.total - time_layer(machine, program, passes).cycles)
            beyond, off, total = beyond + (apart > hardware.bound), off + apart, total + hardware.total
        done += len(drawn)
    console.print(
        f"hardware: {done} layers in {passes_done} passes; {wrong} with wrong results, {late} with passes of other "
        f"cycles; whole layers take {total} cycles, {off / total:.1%} off the model's, {beyond} beyond its bound"
    )
    return {
        "rtl_layers": done, "rtl_mismatches": wrong, "cycle_mismatches": late, "rtl_passes": passes_done,
        "layers_beyond_bound": beyond, "layer_cycles_off": off / total,
    }  # fmt: skip


def _random_bounds(seed: int) -> Iterator[bool]:
    """Of random layers on random machines, whether a bound is beaten, or the parts are not the whole."""
    random = np.random.default_rng(seed)
    for _ in range(BOUND_LAYERS):
        machine, drawn = draw_machine(random), draw_layer(random)
        (timing,) = time_network(machine, [compile_layer(machine, drawn.product)]).layers
        yield _beaten(machine, drawn.product, timing)


def _beaten(machine: Accelerator, product: Product, timing: Timing) -> bool:
    whole = math.isclose(timing.parts.total, timing.cycles, rel_tol=1e-9)
    return timing.cycles < lower_bounds(machine, product).cycles or not whole


def _networks(
    console: Console, machines: dict[str, Accelerator], arguments: argparse.Namespace, choices: Sequence[Choice]
) -> tuple[list[Row], float]:
    """Every network dense and under every choice, layer by layer."""
    rows: list[Row] = []
    beaten = 0
    for name in arguments.models:
        shape = Shape.of(name, arguments.batch)
        for choice in (Choice(dtype="int8"), *choices):
            drawn = list(products(shape, choice, arguments.seed))
            for target, machine in machines.items():
                timed = time_network(machine, [*compiled(machine, drawn), *shape.work])
                beaten += sum(map(_beaten, [machine] * len(drawn), drawn, timed.layers))
                rows.append(_row(target, name, choice, machine, timed, rows))
    for target in machines:
        for name in arguments.models:
            mine = [row for row in rows if (row.target, row.network) == (target, name)]
            console.print(_table(mine, arguments.batch))
    return rows, float(beaten)


def _row(target: str, name: str, choice: Choice, machine: Accelerator, timed: Run, rows: Sequence[Row]) -> Row:
    parts = Parts(*(sum(getattr(layer.parts, field.name) for layer in timed.layers) for field in fields(Parts)))
    energies = [estimate_energy(machine, layer).total_j for layer in timed.layers]
    dense = [row.cycles for row in rows if (row.target, row.network) == (target, name)][:1] or [timed.latency_cycles]
    return Row(
        target, name, str(Choice(choice.pattern, choice.ratio)), timed.latency_cycles,
        dense[0] / timed.latency_cycles, parts, (sum(low for low, _ in energies), sum(high for _, high in energies)),
    )  # fmt: skip


def _table(rows: Sequence[Row], batch: int) -> Table:
    names = [field.name for field in fields(Parts)]
    machine = _machine(rows[0].target)
    title = f"{rows[0].network} on {rows[0].target}, {batch} at once: of a sample, and % of cycles"
    table = Table("choice", "ms", "speed-up", *names, "mJ", title=title)
    for row in rows:
        shares = [f"{100 * getattr(row.parts, name) / row.cycles:.1f}" for name in names]
        low, high = (each / batch for each in row.energy_j)
        milliseconds = f"{1e3 * row.cycles / machine.clock_hz / batch:.3f}"
        table.add_row(row.choice, milliseconds, f"{row.speedup:.2f}", *shares, f"{1e3 * low:.2f}-{1e3 * high:.2f}")
    return table


def _headline(rows: Sequence[Row]) -> dict[str, float]:
    """What `fpga-sim`, or the first machine, gains by 90 %, and loses of it to rows that wait."""
    found: dict[str, float] = {}
    wanted = "fpga-sim" if any(row.target == "fpga-sim" for row in rows) else rows[0].target
    for row in rows:
        if row.target == wanted and row.choice in ("unstructured@0.9", "2:4"):
            key = f"{row.network}_{'unstructured_90' if '@' in row.choice else 'nm_24'}"
            found[f"{key}_speedup"] = row.speedup
            found[f"{key}_waiting"] = (row.parts.imbalance + row.parts.conflicts) / row.cycles
    return found


def _speed(console: Console, seed: int) -> float:
    """Seconds that `fpga-sim`'s cycles of the whole network take to count, every layer of its own weights."""
    machine, shape = _machine("fpga-sim"), Shape.of("resnet50")
    choice = parse_choice(SPEED_CHOICE)
    drawn = list(products(shape, Choice(choice.pattern, choice.ratio, "int8"), seed))
    began = time.perf_counter()
    programs = compiled(machine, drawn)
    compile_s = time.perf_counter() - began
    streams = [write_stream(machine, program) for program in programs]
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        time_network(machine, [*programs, *shape.work])
        taken.append(time.perf_counter() - began)
    size = sum(map(len, streams))
    console.print(
        f"speed: {len(programs)} layers compiled in {compile_s:.1f} s, {size / 1e6:.1f} MB of command streams, "
        f"simulated in {statistics.median(taken):.2f} s"
    )
    return statistics.median(taken)
