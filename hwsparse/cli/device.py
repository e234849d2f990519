"""`hwsparse device`: offers this machine as a board to others, and runs the tracker where boards are registered."""

from __future__ import annotations

import time

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse.errors import MeasureError
from hwsparse.latency.board import Address
from hwsparse.latency.cores import parse_cores, usable_cpus

app = typer.Typer(
    rich_markup_mode="markdown",
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
    cores: str | None = typer.Option(
        None,
        help="Run code on these CPUs only: numbers as 4-7 or 0,2, or big (the fastest kind that there is) or little "
        "(the slowest). What is measured on others counts as another device's.",
    ),
    port: int | None = typer.Option(
        None, min=1, max=65535, help="Port to listen on; by default the first that is free from 9091 on."
    ),
) -> None:
    """Offers this machine as a board, until it is stopped: one user at a time, in a process of its own."""
    address = Address.parse(tracker, key)
    cpus = () if cores is None else parse_cores(cores, usable_cpus())
    from hwsparse.latency.onboard import serve_board  # it takes a while

    serve_board(address, host, lambda line: Console().print(escape(line)), cpus, port)


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
