"""Which layers run on a target's accelerator, and what is called for them.

TVM partitions graphs for external code generators by matching patterns of its own (FuseOpsByPattern, RunCodegen);
here chains of a layer and what follows it are found already, and a call of a packed function, which TVM leaves as it
is, hands one to the accelerator as it stands. Its command stream is a parameter, kept beside all other weights.

What the accelerator cannot run, groups of channels above all, has the host's kernels.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from hwsparse.accelerator import Accelerator, Geometry, compile_layer, lay_out, write_stream
from hwsparse.artifact.manifest import ARRAY
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.select import Kernel, shared_rows
from hwsparse.codegen.fpga.calls import call_for
from hwsparse.errors import CompileError, PlanError, UnsupportedError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Layer
from hwsparse.quantise import MOST_VALUE, Scale, weight_bytes
from hwsparse.target import Target
from hwsparse.work import Work

# Activations are bytes of 0 to 255, and the array reads signed ones: it gets them less the middle.
MIDDLE = (MOST_VALUE + 1) // 2
MOST_SUM = 2**31 - 1


def takes(layer: Layer, choice: Choice, target: Target) -> bool:
    """Whether a layer under a choice runs on the target's accelerator."""
    if target.accelerator is None or choice.dtype != target.accelerator.dtype:
        return False
    try:
        Geometry.of(layer)
    except (PlanError, UnsupportedError):  # groups, or a map larger than it can count
        return False
    return True


def array_kernel(layer: Layer, choice: Choice, accelerator: Accelerator, epilogue: Epilogue) -> Kernel:
    """The call for a layer; what it packs is a command stream."""
    call = call_for(epilogue, layer.window is None)
    return Kernel(ARRAY, call, partial(_pack, layer, choice, accelerator, epilogue))


def _pack(
    layer: Layer,
    choice: Choice,
    accelerator: Accelerator,
    epilogue: Epilogue,
    weight: np.ndarray,
    scale: Scale | None = None,
) -> tuple[np.ndarray, ...]:
    """The command stream (bytes,); of bytes also by row what sums are moved by, int32, and multiplied by.

    Args:
        scale: of what is read, if that is bytes.

    Raises:
        CompileError: no tiling fits the accelerator, or sums could leave int32.
    """
    if scale is None:
        return (_stream(layer, choice, accelerator, epilogue, weight.astype(accelerator.dtype), 0),)
    signed, scales = weight_bytes(weight)
    rows = signed.reshape(len(signed), -1).astype(np.int64)
    # What a sum of bytes about their zero can come to; about the middle, in the array, it is half as much.
    if MOST_VALUE * np.abs(rows).sum(axis=1).max() > MOST_SUM:
        raise CompileError(
            f"layer {layer.name!r} as {choice}: sums of its {layer.inputs} products may leave the accelerator's int32; "
            "leave it in float32, which is the host's"
        )
    stream = _stream(layer, choice, accelerator, epilogue, signed, scale.zero - MIDDLE)
    moved_by = (MIDDLE - scale.zero) * rows.sum(axis=1)
    return stream, moved_by.astype(np.int32), scales * np.float32(scale.scale)


def _stream(
    layer: Layer, choice: Choice, accelerator: Accelerator, epilogue: Epilogue, weight: np.ndarray, pad: int
) -> np.ndarray:
    mask = weight != 0
    if isinstance(choice.pattern, Dense):
        mask[:] = True
    elif isinstance(choice.pattern, Channel):  # rows are whole, or not there
        mask[:] = mask.any(axis=tuple(range(1, mask.ndim)), keepdims=True)
    product = lay_out(
        layer,
        weight,
        mask,
        choice.pattern,
        output_bytes=np.dtype(epilogue.stored).itemsize,
        residual_bytes=np.dtype(epilogue.added).itemsize if epilogue.residual else 0,
        pad=pad,
    )
    try:
        program = compile_layer(accelerator, product)
    except UnsupportedError as error:
        raise CompileError(str(error)) from None
    return np.frombuffer(write_stream(accelerator, program), np.uint8)


def work(layer: Layer, choice: Choice, accelerator: Accelerator) -> Work:
    """What the accelerator does for a layer, in its cycles were nothing in its way, and in bytes of its memory."""
    geometry, rows = Geometry.of(layer), layer.outputs
    kept = rows * geometry.inputs * (1 - choice.ratio)
    words = kept / accelerator.rows
    tiles = -(-geometry.positions // accelerator.tile_positions)
    stored = kept * (accelerator.element_bytes + _index_bits(choice.pattern, accelerator) / 8)
    parts = {
        "calls": 1.0,
        "words": words * tiles,
        "stored bytes": stored,
        "input bytes": math.prod(layer.input_shape) * accelerator.element_bytes,
        "output bytes": math.prod(layer.output_shape) * accelerator.element_bytes,
    }
    traits = {
        "rows": rows,
        "columns": geometry.inputs,
        "positions": geometry.positions,
        "taps": math.prod(geometry.kernel),
        "tiles": tiles,
        "kept of a row": kept / rows,
        "weights held": stored / accelerator.weights_bytes,
    }
    # As of a CPU's kernels: choices that lie near each other behave alike.
    place = (math.log2(shared_rows(choice.pattern)), -math.log2(max(1 - choice.ratio, 1e-3)))
    return Work(ARRAY, parts, {name: float(value) for name, value in traits.items()}, place, stored)


def _index_bits(pattern: Pattern, accelerator: Accelerator) -> float:
    """Of each weight in a stream, its share of what says where it is."""
    match pattern:
        case Dense() | Channel():
            return 0.0
        case NM(m=m, shared=shared):
            return (m - 1).bit_length() / shared
        case Block(rows, cols):
            return (accelerator.run_bits + 1) / (rows * cols)
        case Unstructured():
            return accelerator.run_bits + 1
