"""Kernels run in memory between pages that must not be touched: arguments and workspaces alike.

Whoever reads or writes out of bounds is killed by the machine; where rounding up to TVM's alignment leaves room
before a page, the room is NaN and has to stay so. Meant for a process of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from hwsparse.codegen.link import link

ALIGNMENT, CANARY = 64, 0xFF  # four such bytes are a NaN
# The C library's mmap.h
PROT_NONE = 0
C = ctypes.CDLL(None, use_errno=True)
ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
FREE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class Guarded:
    """Bytes that end, or begin, at a page that must not be touched, with another such page at their other side."""

    def __init__(self, size: int, at_end: bool) -> None:
        page = mmap.PAGESIZE
        room = -(-max(size, 1) // page) * page
        memory = np.frombuffer(mmap.mmap(-1, room + 2 * page), np.uint8)
        for guard in (0, page + room):
            if C.mprotect(ctypes.c_void_p(memory.ctypes.data + guard), ctypes.c_size_t(page), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        inner = memory[page : page + room]
        inner[:] = CANARY
        start = room - -(-size // ALIGNMENT) * ALIGNMENT if at_end else 0
        self.before, self.bytes, self.behind = inner[:start], inner[start : start + size], inner[start + size :]

    @property
    def address(self) -> int:
        return self.bytes.ctypes.data

    @property
    def intact(self) -> bool:
        """Nothing was written around the bytes."""
        return bool((self.before == CANARY).all() and (self.behind == CANARY).all())

    @classmethod
    def copy(cls, array: np.ndarray, at_end: bool) -> Guarded:
        guarded = cls(array.nbytes, at_end)
        guarded.bytes[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return guarded


@dataclass(slots=True)
class Workspaces:
    """What TVM's code calls for memory; `broken` counts the workspaces around which something was written."""

    at_end: bool
    broken: int = 0
    held: dict[int, Guarded] = field(default_factory=dict)

    def allocate(self, kind: int, number: int, size: int, code: int, bits: int) -> int:
        workspace = Guarded(size, self.at_end)
        self.held[workspace.address] = workspace
        return workspace.address

    def free(self, kind: int, number: int, address: int) -> int:
        self.broken += not self.held.pop(address).intact
        return 0


def run_guarded(function: tvm.tirx.PrimFunc, inputs: Sequence[np.ndarray], out: np.ndarray) -> list[str]:
    """Runs a kernel between guard pages, and in ordinary memory, and compares: what it should not have done.

    Args:
        out: what the output holds before; NaN where the kernel is not to read it.
    """
    # Workspaces are allocated in Python, which the threads of a pool would wait for.
    tvm.get_global_func("runtime.config_threadpool")(1, 1)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.so"
        with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
            built = tvm.compile(function, tvm.target.Target({"kind": "llvm"}))
        built.export_library(str(path), fcompile=lambda output, objects, **_: link(output, objects, ""))
        kernel, library = tvm.runtime.load_module(str(path))["kernel"], ctypes.CDLL(str(path))
    plain = [tvm.runtime.tensor(array) for array in (*inputs, out)]
    kernel(*plain)
    expected = plain[-1].numpy()
    found = [] if np.isfinite(expected).all() else ["it read what was not given to it"]
    for at_end in (False, True):
        workspaces = Workspaces(at_end)
        arguments = [Guarded.copy(array, at_end) for array in (*inputs, out)]
        views = [
            argument.bytes.view(array.dtype).reshape(array.shape)
            for argument, array in zip(arguments, (*inputs, out), strict=True)
        ]
        with _Interposed(library, workspaces):
            kernel(*(tvm.runtime.from_dlpack(view) for view in views))
        if not all(argument.intact for argument in arguments):
            found.append("it wrote around an argument")
        if workspaces.broken or workspaces.held:
            found.append("it wrote around a workspace, or kept one")
        if not np.array_equal(views[-1], expected, equal_nan=True):
            found.append("it gave something else between guard pages")
        if not all(map(np.array_equal, views[:-1], inputs)):
            found.append("it wrote to an input")
    return found


class _Interposed:
    """Within it, a library's code takes its workspaces from `workspaces`.

    TVM's code calls the runtime by pointers that loading fills in.
    """

    def __init__(self, library: ctypes.CDLL, workspaces: Workspaces) -> None:
        callbacks: dict[str, Callable[..., Any]] = {
            "__TVMBackendAllocWorkspace": ALLOCATE(workspaces.allocate),
            "__TVMBackendFreeWorkspace": FREE(workspaces.free),
        }
        self.callbacks = callbacks
        self.pointers = {name: ctypes.c_void_p.in_dll(library, name) for name in callbacks if hasattr(library, name)}
        self.stored = {name: pointer.value for name, pointer in self.pointers.items()}

    def __enter__(self) -> None:
        for name, pointer in self.pointers.items():
            pointer.value = ctypes.cast(self.callbacks[name], ctypes.c_void_p).value  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        for name, pointer in self.pointers.items():
            pointer.value = self.stored[name]
