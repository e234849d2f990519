"""Kernels compiled for this machine, with bounds checked, and run on arrays."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import tvm

from hwsparse.probe import ARM_FEATURES, X86_FEATURES
from hwsparse.target import Target, load_target

GENERIC, NATIVE = {"kind": "llvm"}, {"kind": "llvm", "fast-math-reassoc": True, "fast-math-contract": True}


def with_flags(name: str, *flags: str) -> Target:
    """A shipped target whose CPU has more than what ships."""
    plain = load_target(name)
    features = {**ARM_FEATURES, **X86_FEATURES[256], **X86_FEATURES[512]}
    code = {**json.loads(plain.tvm_target), "mattr": [features[flag] for flag in flags]}
    return replace(plain, isa=(*plain.isa, *flags), tvm_target=json.dumps(code)) if flags else plain


def compile_kernel(function: tvm.tirx.PrimFunc, target: dict[str, object] = GENERIC) -> tvm.runtime.Module:
    """The function compiled such that a read or write past the end of a buffer is an error."""
    config = {"tirx.disable_storage_rewrite": True, "tirx.instrument_bound_checkers": True}
    with tvm.transform.PassContext(opt_level=3, config=config):
        return tvm.compile(function, tvm.target.Target(target))


def run_kernel(function: tvm.tirx.PrimFunc, out_shape: tuple[int, ...], *inputs: np.ndarray) -> np.ndarray:
    """What a kernel makes of float32 inputs, in an output that is NaN wherever nothing is written."""
    out = tvm.runtime.tensor(np.full(out_shape, np.nan, np.float32))
    arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
    compile_kernel(function)["kernel"](*map(tvm.runtime.tensor, arrays), out)
    return np.asarray(out.numpy())
