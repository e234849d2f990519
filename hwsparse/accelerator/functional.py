"""What the array computes: a decoded program on inputs, sum by sum in the array's own order.

int8 adds up exactly in int32, and a sum that leaves it is found out, bounded beforehand where weights allow. Floats
are multiplied and added in float32, one product after the other in the order of a row's entries; of float16 the
products are exact there. Padding adds nothing. Knows no masks, no times and no vector unit: sums come out as they
are.
"""

from __future__ import annotations

import numpy as np

from hwsparse.accelerator.program import Program
from hwsparse.errors import DataError, UnsupportedError

_INT32 = 2**31 - 1
_BLOCK = 1 << 22  # elements that a step of the exact order works on


def run_program(program: Program, inputs: np.ndarray) -> np.ndarray:
    """(outputs, positions) sums, int32 of int8, float32 of floats.

    Args:
        inputs: (batch, channels, *sizes) of the machine's type.

    Raises:
        DataError: inputs of another type or shape.
        UnsupportedError: a sum left int32.
    """
    geometry = program.geometry
    wanted = (geometry.batch, geometry.channels, *geometry.sizes)
    if inputs.dtype.name != program.dtype or inputs.shape != wanted:
        raise DataError(f"the array reads {program.dtype} of {wanted}, not {inputs.dtype} of {inputs.shape}")
    columns = geometry.columns(inputs)
    rows, starts, places, values = _by_channel(program)
    if program.dtype != "int8":
        return _in_order(program, columns.astype(np.float32), rows, starts, places, values.astype(np.float32))
    if may_overflow(program):
        _check_sums(program, columns, rows, starts, places, values)
    weight = np.zeros((program.outputs, geometry.inputs))
    np.add.at(weight, (rows, places), values)  # whole numbers below 2^53: float64 holds every sum
    return np.asarray(weight @ columns.astype(np.float64)).astype(np.int64).astype(np.int32)


def may_overflow(program: Program) -> bool:
    """Whether some inputs could drive a channel's sum, or a part of it, out of int32."""
    if program.dtype != "int8":
        return False
    rows, _, _, values = _by_channel(program)
    most = np.bincount(rows, np.abs(values.astype(np.int64)), program.outputs) * 128
    return bool(most.max(initial=0) > _INT32)


def _by_channel(program: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Products in the array's order, channel after channel: output, where a channel's begin, input, value."""
    form, tiling = program.form, program.tiling
    counts = program.counts
    sets, _, width = counts.shape
    unit = np.broadcast_to(np.arange(sets)[:, None, None] * width + np.arange(width), counts.shape).reshape(-1)
    start = np.broadcast_to(np.array([start for start, _ in tiling.chunks])[:, None], counts.shape).reshape(-1)
    per_entry = np.repeat(unit, counts.reshape(-1))
    first = np.repeat(start, counts.reshape(-1)) + program.places() * form.span
    order = np.argsort(per_entry, kind="stable")  # a set's chunks come one after the other
    per_entry, first, values = per_entry[order], first[order], program.values[order]
    places = np.repeat((first[:, None] + np.arange(form.span)).reshape(-1), form.share)
    rows = (per_entry[:, None, None] * form.share + np.broadcast_to(np.arange(form.share), values.shape)).reshape(-1)
    flat = values.reshape(-1)
    kept = (flat != 0) & (rows < program.outputs)
    rows, places, flat = rows[kept], places[kept], flat[kept]
    order = np.argsort(rows, kind="stable")
    rows, places, flat = rows[order], places[order], flat[order]
    return rows, np.searchsorted(rows, np.arange(program.outputs + 1)), places, flat


def _in_order(
    program: Program, columns: np.ndarray, rows: np.ndarray, starts: np.ndarray, places: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """float32 sums, the products of a channel one after the other; all channels side by side."""
    found = np.zeros((program.outputs, columns.shape[1]), np.float32)
    lengths = np.diff(starts)
    by_length = np.argsort(-lengths, kind="stable")
    longest = lengths[by_length]
    for at in range(int(longest.max(initial=0))):
        busy = by_length[: int(np.searchsorted(-longest, -at, side="left"))]
        entry = starts[busy] + at
        found[busy] += values[entry, None] * columns[places[entry]]
    return found


def _check_sums(
    program: Program, columns: np.ndarray, rows: np.ndarray, starts: np.ndarray, places: np.ndarray, values: np.ndarray
) -> None:
    step = max(1, _BLOCK // max(int(np.diff(starts).max(initial=1)), 1))
    for channel in range(program.outputs):
        mine = slice(starts[channel], starts[channel + 1])
        if np.abs(values[mine].astype(np.int64)).sum() * 128 <= _INT32:
            continue
        for at in range(0, columns.shape[1], step):
            read = columns[places[mine], at : at + step].astype(np.int64)
            sums = np.cumsum(values[mine, None].astype(np.int64) * read, axis=0)
            if sums.max() > _INT32 or sums.min() < -_INT32 - 1:
                raise UnsupportedError(
                    f"layer {program.name!r}: the sum of output {channel} leaves int32; scale its weights down"
                )
