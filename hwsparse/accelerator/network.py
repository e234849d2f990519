"""A network on the accelerator: layer by layer, or as a pipeline of stages whose slowest sets the pace.

Layer by layer every layer has the whole machine and goes through memory. In a pipeline each layer has rows of its own,
and with them its share of the copies of inputs, of weight and output memory and of the vector unit; all weights stay on
the chip, what a stage hands on does not leave it, and memory carries what goes into the first stage and comes out of
the last. Rows go one portion after the other to the stage that is slowest.

Knows no model: layers come as products, and work of the vector unit alone, such as pooling, as sizes.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwsparse.accelerator.layer import Product
from hwsparse.accelerator.machine import HOST_BYTES, Accelerator
from hwsparse.accelerator.passes import time_passes
from hwsparse.accelerator.program import Program, compile_layer
from hwsparse.accelerator.timing import Timing, time_layer, time_vector
from hwsparse.errors import PlanError, UnsupportedError


@dataclass(frozen=True, slots=True)
class VectorWork:
    """A layer without weights: every output takes some passes of the vector unit over what it reads."""

    name: str
    outputs: int
    operations: int  # for each output: of pooling, the inputs of its window
    input_elements: int

    def __post_init__(self) -> None:
        if min(self.outputs, self.operations, self.input_elements) < 1:
            raise PlanError(f"layer {self.name!r}: outputs, operations and inputs are 1 at least")


@dataclass(frozen=True, slots=True)
class Run:
    """What a network takes, sample by sample."""

    layers: tuple[Timing, ...]
    latency_cycles: int  # of one sample
    interval_cycles: int  # from one sample to the next
    rows: tuple[int, ...]  # of each layer

    def latency_s(self, accelerator: Accelerator) -> float:
        return self.latency_cycles / accelerator.clock_hz

    def interval_s(self, accelerator: Accelerator) -> float:
        return self.interval_cycles / accelerator.clock_hz


def time_network(accelerator: Accelerator, layers: Sequence[Program | VectorWork]) -> Run:
    """Layer by layer; layers that are compiled alike are timed once.

    Args:
        layers: in the order that they run in.
    """
    programs = list({id(layer): layer for layer in layers if isinstance(layer, Program)}.values())
    passes = dict(zip(map(id, programs), time_passes(accelerator, programs), strict=True))
    timed = {id(program): time_layer(accelerator, program, passes[id(program)]) for program in programs}
    found = tuple(
        timed[id(layer)] if isinstance(layer, Program) else _time_work(accelerator, layer) for layer in layers
    )
    cycles = sum(layer.cycles for layer in found)
    return Run(found, cycles, cycles, (accelerator.rows,) * len(found))


def _time_work(accelerator: Accelerator, work: VectorWork) -> Timing:
    size = accelerator.element_bytes
    return time_vector(accelerator, work.name, work.outputs, work.operations, work.input_elements * size)


def time_pipeline(accelerator: Accelerator, layers: Sequence[Product]) -> Run:
    """All layers side by side, on one sample after the other.

    Raises:
        UnsupportedError: more layers than there are portions of rows, or weights that the rows cannot hold.
    """
    portion, portions = accelerator.rows_per_copy, accelerator.input_copies
    if len(layers) > portions:
        raise UnsupportedError(
            f"a pipeline of {len(layers)} layers needs as many copies of inputs, with rows of their own; the "
            f"accelerator has {portions}"
        )
    given = [1] * len(layers)
    stages = [_stage(accelerator, layer, portion) for layer in layers]
    # Those that their rows cannot hold come first, the fullest before the others.
    heap = [(*_rank(stage), number) for number, stage in enumerate(stages)]
    heapq.heapify(heap)
    left = portions - len(layers)
    while left:
        *_, number = heapq.heappop(heap)
        given[number] += 1
        left -= 1
        stages[number] = _stage(accelerator, layers[number], given[number] * portion)
        heapq.heappush(heap, (*_rank(stages[number]), number))
    for layer, stage in zip(layers, stages, strict=True):
        if stage.fullness > 1:
            raise UnsupportedError(
                f"layer {layer.name!r} has more weights than its share of {accelerator.weights_bytes} bytes holds; run "
                "the network layer by layer, or on more memory"
            )
    size = accelerator.element_bytes
    moved = layers[0].geometry.map_elements * size
    moved += layers[-1].outputs * layers[-1].positions * (layers[-1].output_bytes or size)
    memory = math.ceil(moved / accelerator.dram_bytes_per_cycle)
    pace = max(memory, *(stage.timing.cycles for stage in stages))
    latency = accelerator.dram_latency_cycles + memory + sum(stage.timing.cycles for stage in stages)
    return Run(tuple(stage.timing for stage in stages), latency, pace, tuple(count * portion for count in given))


@dataclass(frozen=True, slots=True)
class _Stage:
    timing: Timing
    fullness: float  # of the fullest row's memory


def _rank(stage: _Stage) -> tuple[float, float]:
    return (-stage.fullness if stage.fullness > 1 else 0.0, -float(stage.timing.cycles))


def _stage(accelerator: Accelerator, layer: Product, rows: int) -> _Stage:
    """A layer on some rows and their share of everything else; memory is no part of it."""
    share = rows / accelerator.rows
    mine = dataclasses.replace(
        accelerator,
        rows=rows,
        input_copies=rows // accelerator.rows_per_copy,
        weights_bytes=math.ceil(accelerator.weights_bytes * share),
        inputs_bytes=math.ceil(accelerator.inputs_bytes * share),
        outputs_bytes=max(
            math.ceil(accelerator.outputs_bytes * share),
            2 * rows * accelerator.tile_positions * HOST_BYTES,
        ),
        vector_lanes=max(1, math.floor(accelerator.vector_lanes * share)),
        dram_bytes_per_cycle=2.0**16,
        dram_latency_cycles=0,
    )
    program = compile_layer(mine, layer)
    (passes,) = time_passes(mine, [program])
    words = int(program.words().sum(axis=(0, 1)).max(initial=0))
    return _Stage(time_layer(mine, program, passes, on_chip=True), words / (2 * mine.row_words))
