"""Which kernels serve a layer on a target, and what they do: the CPU's, or its accelerator where it has one.

Several may; which is fastest depends on the shape and the machine, and is for measurement to say.
"""

from __future__ import annotations

from hwsparse.artifact.manifest import ARRAY
from hwsparse.codegen.cpu import select as cpu
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.select import Kernel
from hwsparse.codegen.cpu.work import work as work_of_cpu
from hwsparse.codegen.fpga import kernel as fpga
from hwsparse.errors import CompileError
from hwsparse.plan import Choice, Layer
from hwsparse.target import Target
from hwsparse.work import Work


def kernels_for(layer: Layer, choice: Choice, target: Target) -> tuple[str, ...]:
    """Names of the kernels for `layer` with weights pruned as `choice` says, the one to take unmeasured first.

    Choices that differ in their ratio alone have the same kernels.
    """
    return (ARRAY,) if fpga.takes(layer, choice, target) else cpu.kernels_for(layer, choice, target)


def kernel_for(layer: Layer, choice: Choice, target: Target, epilogue: Epilogue, name: str | None = None) -> Kernel:
    """The kernel called `name`, one of `kernels_for`; the first of them if None.

    Raises:
        CompileError: it is none of them.
    """
    if target.accelerator is None or not fpga.takes(layer, choice, target):
        return cpu.kernel_for(layer, choice, target, epilogue, name)
    if name not in (None, ARRAY):
        raise CompileError(f"{layer.name} as {choice} on {target.name}: no kernel {name!r}; {ARRAY}")
    return fpga.array_kernel(layer, choice, target.accelerator, epilogue)


def work(layer: Layer, choice: Choice, target: Target, kernel: str) -> Work:
    """What a kernel of `kernels_for` does: on its busiest thread, where work is counted tile by tile.

    Raises:
        CompileError: no kernel is called so.
    """
    if kernel == ARRAY and target.accelerator is not None:
        return fpga.work(layer, choice, target.accelerator)
    return work_of_cpu(layer, choice, target, kernel)
