"""`hwsparse device`: offers this machine as a board to others, and runs the tracker where boards are registered."""

from __future__ import annotations

import os
import time

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.errors import InputError, MeasureError
from hwsparse.latency import Address

app = typer.Typer(
    help="Boards: devices that others reach over the network to have code timed.\n\n"
    "Whoever reaches a board or its tracker can run any code on it: keep both in a network of your own.",
    no_args_is_help=True,
)
HOST = typer.Option("127.0.0.1", help="Address to listen on, under which others reach this machine.")


@app.command()
def serve(
    tracker: str = typer.Option(help="HOST:PORT of the tracker to register at."),
    key: str = typer.Option(help="What this board is: the name of its target."),
    host: str = HOST,
    cpu: list[int] = typer.Option([], help="Only these CPUs, as a phone's big cores; may be repeated."),
) -> None:
    """Offers this machine as a board, until it is stopped: one user at a time, in a process of its own."""
    from hwsparse.latency.board import serve_board

    address = Address.parse(tracker, key)
    if cpu:
        try:
            os.sched_setaffinity(0, cpu)
        except (OSError, AttributeError) as error:
            raise InputError(f"--cpu: this process cannot run on {cpu}: {error}") from None
    serve_board(address, host, lambda line: Console().print(escape(line)))


@app.command()
def tracker(
    host: str = HOST,
    port: int = typer.Option(9190, help="Port to listen on."),
) -> None:
    """Runs a tracker, until it is stopped: boards register there, and users ask it for one."""
    from tvm.rpc.tracker import Tracker

    try:
        running = Tracker(host, port, port + 1, silent=True)
    except Exception as error:  # of many types, raised in another process
        raise MeasureError(f"no tracker can listen on {host}:{port}: {error}") from None
    Console().print(escape(f"the tracker listens on {host}:{running.port}"))
    try:
        while running.proc.is_alive():
            time.sleep(1.0)
    finally:
        running.terminate()
    raise MeasureError("the tracker has ended")
