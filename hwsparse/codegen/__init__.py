"""Code generation: TIR kernels by device family, a lowering pass over Relax, compiled libraries."""

import hwsparse.codegen.without_torch  # noqa: F401  # before anything else imports TVM
from hwsparse.codegen.build import build_model, compile_model
from hwsparse.codegen.cpu.arithmetic import RUN_ERROR
from hwsparse.codegen.cpu.select import plain_kernel, refusal
from hwsparse.codegen.kernels import kernels_for, work
from hwsparse.codegen.library import Library, random_inputs, relative_error
from hwsparse.codegen.lowering import require_compilable
from hwsparse.codegen.single import build_layer, layer_assembly

# Measurements made with another version of the kernels are not used: raise it when their code changes.
KERNEL_VERSION = "10"

__all__ = [
    "KERNEL_VERSION",
    "RUN_ERROR",
    "Library",
    "build_layer",
    "build_model",
    "compile_model",
    "kernels_for",
    "layer_assembly",
    "plain_kernel",
    "random_inputs",
    "refusal",
    "relative_error",
    "require_compilable",
    "work",
]
