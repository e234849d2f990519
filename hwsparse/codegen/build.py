"""Builds libraries: a whole model under a plan, or one layer for timing, by the same path."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from safetensors.numpy import save_file
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwsparse.codegen.cpu.schedule import schedule_remaining
from hwsparse.codegen.library import DESCRIPTION, LIBRARY, WEIGHTS, Library
from hwsparse.codegen.link import link
from hwsparse.codegen.lowering import Lowered, lower
from hwsparse.codegen.operations import LEGALIZATIONS
from hwsparse.errors import CompileError, StorageError, UnsupportedError, one_line, writing
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.target import Target

# Several times what a library takes: LLVM ends the process where it runs out of room.
ROOM_BYTES = 16 << 20
CHECKS = ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")


def build_model(
    model: Model,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    directory: Path,
    kernels: Mapping[str, str] = MappingProxyType({}),
) -> Library:
    """Compiles a model under a plan into `directory`, as `compile_model`, and loads it."""
    compile_model(model, plan, weights, target, directory, kernels)
    return Library.load(directory, target.threads)


def compile_model(
    model: Model,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    target: Target,
    directory: Path,
    kernels: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Compiles a model under a plan into `directory`. Nothing is loaded: the code may be another machine's.

    Args:
        weights: canonical pruned weights by layer name, and constants by theirs; the rest is the model's own.
        directory: an existing directory, which receives library.so, weights.safetensors and library.json.
        kernels: by layer name; layers left out get the kernels expected to be fastest.

    Raises:
        CompileError: TVM or the linker refused the program, or a layer has no kernel of the name asked for.
        StorageError: `directory`, or the one for temporary files, cannot be written to.
        UnsupportedError: the target is neither a CPU nor an accelerator.
    """
    if target.kind != "cpu" and target.accelerator is None:
        raise UnsupportedError(
            f"target {target.name} is a {target.kind}; code can be generated for CPUs and simulated accelerators only"
        )
    lowered = lower(model, plan, weights, target, kernels)
    options = json.loads(target.tvm_target)
    export(compile_module(lowered.module, target), directory / LIBRARY, options.get("mtriple", ""))
    write_parameters(lowered, model, target, directory)


def compile_module(module: tvm.IRModule, target: Target) -> Any:
    """Fuses and schedules what has no kernel of its own, then compiles: a TVM executable.

    Raises:
        CompileError: TVM refused the program.
    """
    # Reassociation lets LLVM vectorise sums, contraction fuses multiply and add.
    options = {"fast-math-reassoc": True, "fast-math-contract": True}
    tvm_target = tvm.target.Target({**json.loads(target.tvm_target), **options})
    fuse = [
        relax.transform.LegalizeOps(LEGALIZATIONS),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    finish = [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        tvm.transform.module_pass(_without_parameter_checks, opt_level=0),
        relax.transform.AttachGlobalSymbol(),
    ]
    # Without storage rewriting: see REGISTERS in codegen.cpu.entry.
    settings = {"tirx.disable_storage_rewrite": True}
    try:
        with tvm_target, tvm.transform.PassContext(opt_level=3, config=settings):
            module = tvm.transform.Sequential(fuse)(module)
            module = schedule_remaining(module, target.threads)
            return tvm.compile(module, tvm_target, relax_pipeline=tvm.transform.Sequential(finish))
    except Exception as error:  # TVM raises errors of many types
        raise CompileError(f"TVM cannot compile for {target.name}: {one_line(error)}") from error


def _without_parameter_checks(module: tvm.IRModule, context: Any) -> tvm.IRModule:
    """Drops the checks of parameters' shapes, up to 3 % of a network's time: kernels check what they are given."""
    main = module["main"]
    parameters = set(main.params[int(main.attrs["num_input"]) :])

    @mutator
    class Unchecked(PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_var_binding_(self, binding: Any) -> None:
            name = getattr(getattr(binding.value, "op", None), "global_symbol", "")
            if name not in CHECKS or binding.value.args[0] not in parameters:
                super().visit_var_binding_(binding)

    module["main"] = Unchecked(module).visit_expr(main)
    return module


def export(executable: Any, path: Path, triple: str) -> None:
    """Links a TVM executable into the shared library `path`.

    Raises:
        CompileError: the linker refused it.
        StorageError: there is no room for it, or for its object files.
    """
    temporary = tempfile.gettempdir()
    if shutil.disk_usage(temporary).free < ROOM_BYTES:
        raise StorageError(
            f"less than {ROOM_BYTES >> 20} MiB are free in {temporary}, too little to compile; free room there, "
            "or set TMPDIR to a directory with room"
        )

    def linker(output: str, objects: list[str], **_: Any) -> None:
        link(output, objects, triple)

    executable.export_library(str(path), fcompile=linker)


def write_parameters(lowered: Lowered, model: Model, target: Target, directory: Path) -> None:
    """Writes weights.safetensors and library.json, which make library.so a `Library`.

    Raises:
        StorageError: `directory` cannot be written to.
    """
    with writing(directory / WEIGHTS):
        save_file(lowered.parameters, directory / WEIGHTS)
    description = {
        "inputs": [_port(spec) for spec in model.inputs],
        "outputs": [_port(spec) for spec in model.outputs],
        "parameters": list(lowered.parameters),
        "kernels": lowered.kernels,
        "tvm": tvm.__version__,
    }
    if target.accelerator is not None:
        description["accelerator"] = asdict(target.accelerator)
        description |= {"host": lowered.has_host, "pipelined": target.pipelined}
    with writing(directory / DESCRIPTION):
        (directory / DESCRIPTION).write_text(json.dumps(description, indent=1))


def _port(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
