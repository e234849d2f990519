"""The array's dense cycles against SCALE-Sim's, a simulator of systolic arrays, for an array of the same size.

SCALE-Sim's array keeps outputs in place as ours does, and lets operands walk from element to element where ours
broadcasts: in every fold, one tile of positions by as many channels as there are rows, the far corner begins
rows + columns - 2 cycles late. Its cycles are those of the array alone; ours too.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.accelerator_networks import Shape, distinct_products, draw_product, product_key
from hwsparse.accelerator import Accelerator, compile_layer
from hwsparse.accelerator.machine import FILL_CYCLES
from hwsparse.accelerator.passes import time_passes
from hwsparse.errors import MeasureError, one_line
from hwsparse.plan import Choice

ROOT = Path(__file__).parents[1]
PEER_TIMEOUT_S = 3600.0


def compare_with_peer(console: Console, machine: Accelerator, python: str | None) -> tuple[float, object]:
    """How far ResNet-50's dense cycles of the array are off SCALE-Sim's, and the layers one by one.

    Args:
        python: an interpreter that has scalesim; None if there is none, and then the answer is NaN.

    Raises:
        MeasureError: it cannot be asked.
    """
    if not python:
        console.print("peer: left out, no Python is named for it: give --scalesim PYTHON or set HWSPARSE_SCALESIM")
        return math.nan, None
    shape = Shape.of("resnet50")
    sides = machine.tile_positions, machine.rows
    distinct = distinct_products([shape])
    theirs = dict(zip(distinct, _scalesim(python, sides, list(distinct)), strict=True))
    table = Table("positions x outputs x inputs", "layers", "ours", "SCALE-Sim", "off", "off but for skew")
    kept, total, total_theirs = [], 0, 0
    for key, layer in distinct.items():
        count = sum(product_key(each) == key for each in shape.layers)
        product = draw_product(layer, Choice(dtype="int8"), 0)
        program = compile_layer(machine, product)
        (passes,) = time_passes(machine, [program])
        tiles = -(-key[0] // sides[0])
        ours = tiles * int(passes.cycles.sum())
        # Operands that walk through the array reach its far corner, and sums its edge, that much later in every fold,
        # a fold being one tile by as many channels as there are rows; ours runs empty once for a set of channels.
        skew = tiles * (-(-key[1] // sides[1]) * (sum(sides) - 2) - FILL_CYCLES * passes.cycles.size)
        off, unexplained = ours / theirs[key] - 1, (ours + skew) / theirs[key] - 1
        table.add_row(
            "x".join(map(str, key)), str(count), str(ours), str(theirs[key]), f"{off:+.1%}", f"{unexplained:+.2%}"
        )
        kept.append({"product": key, "layers": count, "ours": ours, "theirs": theirs[key], "explained": ours + skew})
        total, total_theirs = total + count * ours, total_theirs + count * theirs[key]
    console.print(table)
    console.print(f"peer: all layers {total} cycles against {total_theirs}: {total / total_theirs - 1:+.1%}")
    return abs(total / total_theirs - 1), kept


def _scalesim(python: str, sides: tuple[int, int], asked: Sequence[tuple[int, int, int]]) -> list[int]:
    question = json.dumps({"rows": sides[0], "columns": sides[1], "products": asked})
    command = [python, "-m", "benchmarks.peers.scalesim"]
    try:
        answer = subprocess.run(
            command, input=question, capture_output=True, text=True, cwd=ROOT, timeout=PEER_TIMEOUT_S, check=False
        )
        found: list[int] = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasureError(f"{python} cannot be asked for SCALE-Sim's cycles: {one_line(error)}") from None
    except ValueError:
        said = answer.stderr.strip().splitlines()[-1:] or [f"exit status {answer.returncode}"]
        raise MeasureError(f"{python} is no Python that has scalesim: {said[0]}") from None
    return found
