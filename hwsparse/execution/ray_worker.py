"""What Ray's workers call, on whatever host they are."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any

from hwsparse.execution.task import attempt, unpack

# What lies in this worker by now, of what tasks share.
_kept: dict[str, Any] = {}


def run(payload: bytes, shared: Mapping[str, Any]) -> bytes:
    """Does a task; `shared` are Ray's references to what it shares with others."""
    return attempt(payload, partial(_value_of, shared))


def _value_of(shared: Mapping[str, Any], path: str) -> Any:
    import ray

    if path not in _kept:
        _kept[path] = unpack(memoryview(ray.get(shared[path])))
    return _kept[path]


def traits() -> dict[str, str]:
    """What a host must have in common with the one that runs the job: what it builds is timed and shipped there."""
    packages = ("hwsparse", "apache-tvm", "numpy", "onnxruntime")
    return {"machine": platform.machine(), **{name: metadata.version(name) for name in packages}}


def complaint(host: str, there: Mapping[str, str] | str) -> str | None:
    """Why a host cannot do our work, by its traits or by why it could not tell them; None if it can."""
    if isinstance(there, str):
        return f"host {host} cannot do the work ({there}); install hwsparse there as it is here"
    for name, version in traits().items():
        if there.get(name) != version:
            return f"host {host} has {name} {there.get(name)}, and this one {version}; make them alike"
    return None
