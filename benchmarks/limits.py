"""How many multiply-adds this machine does at best: from registers alone, and with a load from L1 for each.

The second is the limit of kernels whose every loaded vector serves one output; those that share it may pass. Measured
by kernels of the same generator as the layers, in the same process: `Measured` loads either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script import tirx as T  # noqa: N812  # as TVMScript calls it

from hwsparse.codegen import Library
from hwsparse.codegen.build import export
from hwsparse.codegen.cpu.entry import REGISTERS
from hwsparse.codegen.library import DESCRIPTION, LIBRARY
from hwsparse.target import Target

KERNEL, SHAPES = "limit", "shapes.json"
TURNS = 1000
# The rest of L1 is for whatever else a core touches.
L1_SHARE = 0.5


class Measured:
    """What the worker loads: a layer's library, or a limit's."""

    @staticmethod
    def load(directory: Path, threads: int) -> Library | Limit:
        if (directory / DESCRIPTION).exists():
            return Library.load(directory, threads)
        return Limit(directory, threads)


class Limit:
    """A kernel that `build_limit` made."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._module = tvm.runtime.load_module(str(directory / LIBRARY))
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        shapes = json.loads((directory / SHAPES).read_text())
        self._arrays = [tvm.runtime.tensor(np.ones(shape, np.float32)) for shape in shapes]

    def check(self) -> float | None:
        """Halves its sums and adds 1 again and again: their limit is 2."""
        self._module[KERNEL](*self._arrays)
        return float(np.abs(self._arrays[-1].numpy() - 2).max())

    def time(self, repeats: int, number: int = 1) -> tuple[float, ...]:
        """Seconds a call takes, `repeats` times, each the mean of `number` calls back to back."""
        evaluate = self._module.time_evaluator(KERNEL, tvm.cpu(), number=number, repeat=repeats)
        return tuple(evaluate(*self._arrays).results)


def build_limit(target: Target, directory: Path, *, loads: bool) -> int:
    """Compiles a kernel of nothing but multiply-adds into an existing directory; gives a call's flops.

    Args:
        loads: whether an operand of each comes from L1.
    """
    lanes = target.vector_bits // 32
    chains = target.vector_registers * 3 // 4  # independent sums, enough to hide how long each addition takes
    steps = int(L1_SHARE * target.l1d_bytes) // (4 * lanes * chains)
    options = {**json.loads(target.tvm_target), "fast-math-contract": True}
    kernel = _kernel(lanes, chains, steps, target.threads, loads)
    # Without storage rewriting: see REGISTERS in codegen.cpu.entry.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        executable = tvm.compile(tvm.IRModule({KERNEL: kernel}), tvm.target.Target(options))
    export(executable, directory / LIBRARY, options.get("mtriple", ""))
    shapes = [(steps * chains * lanes,), (lanes,), (target.threads * chains * lanes,)]
    (directory / SHAPES).write_text(json.dumps(shapes))
    return 2 * lanes * chains * steps * TURNS * target.threads


def _kernel(lanes: int, chains: int, steps: int, threads: int, loads: bool) -> tirx.PrimFunc:
    """Every sum becomes sum / 2 + operand, `steps` times over L1 (or over one register), `TURNS` times."""

    def operand(x: Any, one: Any, start: Any) -> Any:
        return x[T.Ramp(start, 1, lanes)] if loads else one[T.Ramp(0, 1, lanes)]

    @T.prim_func(s_tir=True)
    def kernel(
        x: T.Buffer((steps * chains * lanes,), "float32"),
        one: T.Buffer((lanes,), "float32"),
        out: T.Buffer((threads * chains * lanes,), "float32"),
    ):
        T.func_attr({"global_symbol": KERNEL, "tirx.noalias": True})
        for task in T.parallel(threads):
            sums = T.alloc_buffer((chains * lanes,), "float32", scope="local", annotations=REGISTERS)
            for i in T.unroll(chains):
                sums[T.Ramp(i * lanes, 1, lanes)] = one[T.Ramp(0, 1, lanes)]
            for _turn in range(TURNS):
                for step in range(steps):
                    for i in T.unroll(chains):
                        sums[T.Ramp(i * lanes, 1, lanes)] = sums[T.Ramp(i * lanes, 1, lanes)] * T.Broadcast(
                            T.float32(0.5), lanes
                        ) + operand(x, one, (step * chains + i) * lanes)
            for i in T.unroll(chains):
                out[T.Ramp((task * chains + i) * lanes, 1, lanes)] = sums[T.Ramp(i * lanes, 1, lanes)]

    return kernel
