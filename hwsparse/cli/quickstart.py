"""`hwsparse quickstart`: the whole path on a real model, on this machine.

The model is Google's Magika, which tells the type of a file; the data are files of this Python
installation, labelled by their names. The model is searched for this machine, the best plans are built and
timed, the winner is asked for through a server on loopback, downloaded, and checked against onnxruntime.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hwsparse.artifact import Artifact
from hwsparse.artifact.manifest import noise_note
from hwsparse.cli import options, service
from hwsparse.cli.front import present
from hwsparse.cli.progress import StageProgress
from hwsparse.cli.work import show_artifact
from hwsparse.serve.client import Client
from hwsparse.serve.server import Server, ServerSettings
from hwsparse.target import list_targets, load_target

if TYPE_CHECKING:
    from hwsparse.data import Dataset
    from hwsparse.model import Model

FILES_PER_TYPE = 40
HOW_MANY_CHECKED = 8


def quickstart(
    out: Path = typer.Option(Path("hwsparse-quickstart"), help="Directory for everything that is written."),
    trials: int = typer.Option(40, help="Plans to try."),
    max_drop: float = typer.Option(0.02, help="Accuracy that the winner may lose."),
    seed: int = options.SEED,
) -> None:
    """The whole path on a real model: measure, search, compile, serve, fetch, prove. Some minutes."""
    from hwsparse.data import write_npz
    from hwsparse.data.magika_files import load_config, magika_directory, read_installed_files
    from hwsparse.model import import_onnx
    from hwsparse.pipeline import Goal, Workspace, optimize

    started, console = time.monotonic(), Console()
    goal = Goal(trials=trials, seed=seed, max_drop=max_drop)
    target = load_target("x86-local")
    target.require_timing()
    source = magika_directory()
    console.rule("1  A model and data")
    model = import_onnx(source / "model.onnx", name="magika")
    dataset = read_installed_files(load_config(source), seed=seed, per_label=FILES_PER_TYPE)
    dataset = dataset.for_model(model)
    kinds = len(np.unique(dataset.labels))
    macs = sum(layer.macs for layer in model.layers)
    console.print(f"Magika from PyPI: {len(model.layers)} prunable layers, {macs / 1e6:.0f} M multiply-adds")
    console.print(f"{len(dataset)} files of this Python installation, of {kinds} types:")
    console.print("a sixth fits weights, a third chooses plans, half only reports")
    console.rule(f"2  What sparsity costs on {target.name}, and a search")
    with StageProgress(console, max_drop) as progress:
        outcome = optimize(model, dataset, target, goal, Workspace(out, options.CACHE / "records.sqlite"), progress)
    console.rule("3  The front")
    present(outcome, dataset.name, out, console)
    winner = outcome.winner
    if winner is None:
        console.print("Sparsity gains nothing on this machine within the goal, so there is nothing to serve.")
        return
    console.rule("4  Served over gRPC, fetched as a client")
    data, onnx_file = out / "files.npz", out / "magika.onnx"
    write_npz(dataset, data)
    shutil.copyfile(source / "model.onnx", onnx_file)
    settings = ServerSettings(state=out / "server", command=service.JOB_COMMAND, targets=list_targets(), port=0)
    with Server(settings) as server, Client(server.address) as client:
        console.print(f"server on {server.address}; asking it to compile the winner's plan for {target.name}")
        operation = client.compile(
            client.upload_model(onnx_file),
            target.name,
            winner.asked,
            dataset=client.upload_dataset(data),
            seed=seed,
        )
        result = service.follow(operation, console)
        place = out / "downloaded" / result.artifacts[0][:16]
        artifact = Artifact.load(place) if place.exists() else client.download(result.artifacts[0], place)
    show_artifact(artifact, console)
    console.rule("5  Proof")
    _prove(artifact, model, outcome.weights(winner.plan), dataset, console)
    console.print(f"the whole took {time.monotonic() - started:.0f} s")


def _prove(
    artifact: Artifact, model: Model, weights: Mapping[str, np.ndarray], dataset: Dataset, console: Console
) -> None:
    """Runs the downloaded artifact on files, against onnxruntime on the same pruned weights."""
    from hwsparse.codegen import Library, relative_error
    from hwsparse.compiler import onnxruntime_answers

    library = Library.load(artifact.directory, artifact.manifest.target.threads)
    errors, same = [], 0
    name = model.outputs[0].name
    for row in range(HOW_MANY_CHECKED):
        inputs = {key: np.ascontiguousarray(values[row : row + 1]) for key, values in dataset.inputs.items()}
        ours, theirs = library.run(inputs)[name], onnxruntime_answers(model, weights, inputs)[name]
        errors.append(relative_error(ours, theirs))
        same += int(ours.argmax() == theirs.argmax())
    console.print(
        f"{HOW_MANY_CHECKED} files through the downloaded artifact and through onnxruntime on the same pruned weights: "
        f"largest difference {max(errors):.1e} of the largest output, {same} of {HOW_MANY_CHECKED} answers equal"
    )
    manifest = artifact.manifest
    if manifest.latency is None or manifest.dense_latency is None or manifest.onnxruntime_latency is None:
        return
    columns = ("", "latency", "against onnxruntime", "accuracy on held-out files", "lost, file by file")
    table = Table(*columns, title="timed in turns in one run; intervals are 95 %")
    rows = (
        ("onnxruntime, dense", manifest.onnxruntime_latency, manifest.dense_quality),
        ("hwsparse, dense", manifest.dense_latency, manifest.dense_quality),
        ("hwsparse, sparse", manifest.latency, manifest.quality),
    )
    for label, latency, quality in rows:
        speedup = manifest.onnxruntime_latency.median_s / latency.median_s
        figures = []
        if quality is not None:
            figures.append((quality.value, quality.interval))
            if quality is manifest.quality:
                figures.append((quality.drop, quality.drop_interval))
        texts = [f"{value:.1%}\n({low:.1%} to {high:.1%})" for value, (low, high) in figures]
        table.add_row(label, f"{latency.median_s * 1e3:.3f} ms", f"{speedup:.2f}x", *texts)
    console.print(table)
    if note := noise_note(figure for _, figure, _ in rows):
        console.print(note)
