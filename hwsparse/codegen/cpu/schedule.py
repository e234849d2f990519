"""Schedules for what has no kernel of its own: elementwise operations, reductions, copies.

One rule: intermediate values are computed where they are used, outer loops are shared among threads
when there is enough to do, and the innermost loop runs along memory so that LLVM vectorises it. Sums
along the last axis are vectorised too, by letting LLVM reassociate additions (see `build`).

Knows nothing of layers or patterns.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx

# Elements that a thread should have at least, for waking it to pay.
MIN_ELEMENTS_PER_THREAD = 4096
# Kinds of TIR block iterations.
SPATIAL, REDUCTION = 0, 2


def schedule_remaining(module: tvm.IRModule, threads: int) -> tvm.IRModule:
    """Schedules every PrimFunc of the module that is not one of our kernels."""
    scheduled = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for where, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and "hwsparse.kernel" not in function.attrs:
            scheduled[where] = _schedule(function, threads)
    return scheduled


def _schedule(function: tirx.PrimFunc, threads: int) -> tirx.PrimFunc:
    schedule = s_tir.Schedule(function)
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root)[:-1]:
        if REDUCTION not in _kinds(schedule, block) and len(schedule.get_consumers(block)) == 1:
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                continue  # an intermediate that must exist stays where it is
    for block in schedule.get_child_blocks(root):
        _schedule_block(schedule, block, threads)
    return schedule.mod["main"].with_attr("hwsparse.kernel", True)


def _schedule_block(schedule: Any, block: Any, threads: int) -> None:
    loops, kinds = schedule.get_loops(block), _kinds(schedule, block)
    if len(loops) != len(kinds) or set(kinds) - {SPATIAL, REDUCTION}:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == SPATIAL]
    reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == REDUCTION]
    extents = [schedule.get(loop).extent for loop in loops]
    if not spatial or not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return
    work = math.prod(extent.value for extent in extents)
    across = bool(reduction) and len(spatial) > 1 and _reduces_across(schedule.get(block))
    if across:
        # A sum over an outer axis: keep the last axis, along memory, innermost.
        schedule.reorder(*spatial[:-1], *reduction, spatial[-1])
    outer = spatial[:-1] if len(spatial) > 1 and (across or not reduction) else spatial
    if threads > 1 and work >= MIN_ELEMENTS_PER_THREAD * threads:
        fused = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
        if schedule.get(fused).extent.value >= threads:
            schedule.parallel(fused)
        elif not reduction:
            # Too few outer steps for every thread: cut the innermost loop as well.
            everything = schedule.fuse(fused, spatial[-1]) if len(spatial) > 1 else fused
            schedule.parallel(schedule.split(everything, factors=[threads, None])[0])
    if reduction:
        # A sum whose first step were told apart within the loop would not be vectorised.
        schedule.decompose_reduction(block, reduction[0])


def _reduces_across(block: Any) -> bool:
    """Whether a block reads along memory what it does not reduce."""
    kinds = {variable.var: int(variable.iter_type) for variable in block.iter_vars}
    return any(kinds.get(read.region[-1].min) == SPATIAL for read in block.reads if len(read.region) > 1)


def _kinds(schedule: Any, block: Any) -> list[int]:
    return [int(variable.iter_type) for variable in schedule.get(block).iter_vars]
