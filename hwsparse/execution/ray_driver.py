"""The process that speaks with Ray: takes tasks from its parent, has a cluster do them, passes on what came of them.

A task takes a CPU, and of hosts that declare a resource `hwsparse` one of that: where some do, they alone do the work
(`ray start --resources '{"hwsparse": 8}'`).
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hwsparse.errors import ExecutionError, one_line
from hwsparse.execution import ray_worker
from hwsparse.execution.child import line_to_parent

REACH_TIMEOUT_S, LOOK_TIMEOUT_S = 10.0, 40.0
RESOURCE = "hwsparse"
RETRIES = 1  # of a task in the middle of which its worker was lost
ADDRESSES = "give HOST:PORT, ray://HOST:PORT, auto or local"


def main() -> None:
    """Serves the parent until that closes the line."""
    line = line_to_parent(sys.argv)
    try:
        try:
            resources, parallel = _connect(sys.argv[3])
        except (Exception, SystemExit) as error:  # Ray's have no base in common, and some exit
            line.send((0, one_line(str(error)) or type(error).__name__))
        else:
            line.send((parallel, ""))
            _serve(line, resources)
    finally:
        ray.shutdown()
        os.killpg(0, signal.SIGKILL)  # agents of a cluster that was started here may outlive it


def _connect(address: str) -> tuple[dict[str, float], int]:
    """What a task takes beside a CPU, and how many tasks run at once.

    Raises:
        ExecutionError: there is no cluster, or it has a host that cannot do our work, or none that can.
    """
    if address not in ("auto", "local"):
        _require_listener(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, **own)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    resources: dict[str, float] = {}
    if any(RESOURCE in node["Resources"] for node in nodes):
        resources = {RESOURCE: 1.0}
        nodes = [node for node in nodes if node["Resources"].get(RESOURCE, 0) >= 1]
    if not nodes:
        raise ExecutionError("it has no host with a CPU for us")
    _require_alike(nodes)
    return resources, sum(int(min(node["Resources"][name] for name in ("CPU", *resources))) for node in nodes)


def _require_listener(address: str) -> None:
    """Sees that somebody listens at an address: Ray takes minutes to find out that nobody does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ExecutionError(f"{address!r} is no address; {ADDRESSES}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ExecutionError(f"nobody answers there ({getattr(error, 'strerror', None) or error})") from None


def _require_alike(nodes: Sequence[Any]) -> None:
    """Sees that what we need is there on every host, in the versions that are here."""

    # By its value: where hwsparse is not installed, nothing of it can be named.
    def look() -> dict[str, str] | str:
        try:
            from hwsparse.execution.ray_worker import traits

            return traits()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    looks = [
        ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in nodes
    ]
    for node, there in zip(nodes, ray.get(looks, timeout=LOOK_TIMEOUT_S), strict=True):
        if complaint := ray_worker.complaint(node["NodeManagerHostname"], there):
            raise ExecutionError(complaint)


def _serve(line: Connection, resources: dict[str, float]) -> None:
    """Has tasks done as they come."""
    run = ray.remote(ray_worker.run).options(num_cpus=1, resources=resources, max_retries=RETRIES)
    kept: dict[str, Any] = {}
    ended: SimpleQueue[tuple[int, bytes, str] | None] = SimpleQueue()
    # Of its own: Ray's threads tell when a task has ended, and are not to wait for the parent.
    sender = Thread(target=_pass_on, args=(line, ended))
    sender.start()
    try:
        while True:
            number, payload, shared = pickle.loads(line.recv_bytes())
            try:
                for path in shared:
                    if path not in kept:
                        kept[path] = ray.put(np.fromfile(path, np.uint8))
                reference = run.remote(payload, {path: kept[path] for path in shared})
                reference.future().add_done_callback(partial(_ended, ended, number))
            except Exception as error:  # whatever Ray raises
                ended.put((number, b"", one_line(error)))
    except (EOFError, OSError):
        return
    finally:
        ended.put(None)
        sender.join()


def _ended(ended: SimpleQueue[tuple[int, bytes, str] | None], number: int, future: Any) -> None:
    error = future.exception()
    ended.put((number, future.result(), "") if error is None else (number, b"", one_line(error)))


def _pass_on(line: Connection, ended: SimpleQueue[tuple[int, bytes, str] | None]) -> None:
    while (each := ended.get()) is not None:
        try:
            line.send_bytes(pickle.dumps(each, protocol=5))
        except OSError:  # the parent is gone
            return


if __name__ == "__main__":
    main()
