"""The command `simulate`: what each layer of an artifact takes on its simulated accelerator, and why."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from hwsparse import strictjson
from hwsparse.artifact import Artifact
from hwsparse.errors import InputError
from hwsparse.report.roofline import LayerRun, NetworkRun, roofline_png, run_table


def simulate(
    artifact: Path = typer.Argument(help="Directory of an artifact for a simulated accelerator."),
    roofline: Path | None = typer.Option(
        None, help="A PNG to draw: what layers reach of what array and memory could do, and what bounds them."
    ),
    json: bool = typer.Option(
        False, "--json", help="Print everything as JSON: cycles by what they went to, bytes, joules."
    ),
) -> None:
    """Counts the cycles of every layer of an artifact on its simulated accelerator, and says what bound it.

    Cycles are of the accelerator alone: `hwsparse measure` tells what a whole call takes, with its host's part. Energy
    is an estimate from published figures of single operations, from the least to the most that is told of DRAM.
    """
    if roofline is not None and roofline.suffix != ".png":
        raise InputError(f"--roofline {roofline}: pictures are PNGs, so that the name ends in .png")
    run = _run(Artifact.load(artifact))
    if roofline is not None:
        if run.pipelined:
            raise InputError("--roofline is of layers that go through memory: those of a pipeline stay on the chip")
        roofline_png(run, roofline)
    if json:
        print(strictjson.dumps(run, indent=1))
        return
    console = Console()
    console.print(run_table(run))
    if roofline is not None:
        console.print(escape(f"drawn: {roofline}"))


def _run(artifact: Artifact) -> NetworkRun:
    """An artifact's layers, counted.

    Raises:
        InputError: it is for no simulated accelerator.
        ArtifactError: a command stream is cut off or damaged.
        UnsupportedError: its layers are more than a pipeline has room for.
    """
    from hwsparse.codegen import Library

    manifest = artifact.manifest
    accelerated = Library.load(artifact.directory, manifest.target.threads).accelerated
    if accelerated is None:
        raise InputError(
            f"{artifact.directory} is for {manifest.target.name}, which has no simulated accelerator; "
            "`hwsparse measure` times it"
        )
    if not (programs := accelerated.programs):
        raise InputError(f"{artifact.directory}: no layer runs on the accelerator, all are its host's")
    choices, machine = {layer.name: layer.shipped for layer in manifest.layers}, accelerated.accelerator
    counted = accelerated.timed()
    layers = tuple(
        LayerRun.of(
            machine, choices.get(name, ""), rows, timing,
            program.outputs * program.geometry.inputs * program.geometry.positions,
        )
        for (name, program), rows, timing in zip(programs.items(), counted.rows, counted.layers, strict=True)
    )  # fmt: skip
    hosts = tuple((layer.name, layer.kernel) for layer in manifest.layers if layer.name not in programs)
    title = f"{manifest.model.name} on {manifest.target.name}"
    return NetworkRun(
        title, machine, layers, hosts, accelerated.pipelined, counted.latency_cycles, counted.interval_cycles
    )
