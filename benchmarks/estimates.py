"""How far estimates for Arm cores are off: against published times that the core model was not fitted to.

Devices, networks or families of networks are left out in turn, the model is fitted to the rest, and what was left out
is predicted. Beside that the machine code of our own kernels, by LLVM's model of a core, where llvm-mca is at hand. No
device is needed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine_code import Schedule, busiest_loop, find_mca, loops, schedule
from hwsparse.codegen import kernels_for, layer_assembly
from hwsparse.errors import InputError
from hwsparse.latency.core_fit import fit, published
from hwsparse.latency.reference import Sample, chip_of, convolutions, family_of, networks, products, read_convolutions
from hwsparse.latency.reference_networks import convolution
from hwsparse.plan import Layer, parse_choice
from hwsparse.target import load_target

# Of the busiest pipes' time, what multiply-adds should be.
LEAST_SHARE = 0.80
KERNELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1x1", ("dense", "block8x1@0.75", "block4x1@0.75", "block2x1@0.75", "unstructured@0.9", "2:4", "2:4x8")),
    ("3x3", ("dense", "block4x1@0.75", "unstructured@0.9")),
    ("depthwise", ("dense",)),
    ("1x1", ("dense/float16", "block4x1@0.75/float16", "unstructured@0.9/float16")),
    ("1x1", ("dense/int8", "block4x4@0.75/int8", "block8x4@0.75/int8", "block1x4@0.75/int8")),
)
# LLVM 22 runs a Cortex-A76 by the model of the older A57; the Neoverse N1 is the same core for servers.
MCA_CORES = {"Cortex-A76": "neoverse-n1"}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, help="a larger table of convolutions to judge by, in the form of ours")
    parser.add_argument("--target", default="arm-cortex-a76", help="whose kernels are looked at")
    parser.add_argument("--core", help="what LLVM calls the core to model; by default the target's")


def run(arguments: argparse.Namespace) -> tuple[dict[str, float], object]:
    """Prints what is off by how much, and what the machine code is like."""
    console = Console()
    samples = [each for each in (*convolutions(), *networks()) if each.dtype == "float32"]
    judged = list(read_convolutions(arguments.table)) if arguments.table else list(convolutions())
    figures: dict[str, float] = {}
    details: list[dict[str, object]] = []
    table = Table("left out", "judged by", "median error", "rank correlation", "all within", title="Estimates")
    for name, left, times, told in _judgements(samples, judged):
        error, rank, most = _errors(told, times)
        table.add_row(left, f"{name}: {len(times)} times", f"{error:.1%}", f"{rank:.3f}", f"x{most:.2f}")
        key = name.replace(" ", "_").replace(",", "")
        figures |= {f"{key}_error": error, f"{key}_rank": rank}
        details += [
            {"judged": name, "runtime": each.runtime, "device": each.device, "of": each.name,
             "published_s": each.seconds, "predicted_s": float(told_s)}
            for each, told_s in zip(times, told, strict=True)
        ]  # fmt: skip
    console.print(table)
    figures |= _gains(console, samples)
    fitted, widths = published()
    console.print(
        f"Fitted to all: {fitted.coefficients}; by runtime {dict(fitted.runtimes)}; nine in ten within {widths}"
    )
    figures |= {f"fit_{name}": value for name, value in asdict(fitted.coefficients).items()}
    code, kernels = _machine_code(console, arguments.target, arguments.core)
    return figures | code, {"times": details, "kernels": kernels}


def _judgements(
    samples: Sequence[Sample], judged: Sequence[Sample]
) -> Iterable[tuple[str, str, list[Sample], np.ndarray]]:
    """What is judged, what was left out, the published times, and what was predicted of them."""
    yield "dense convolutions", "their device", list(judged), _without(samples, judged, chip_of)
    for device in dict.fromkeys(each.device for each in judged):
        own = [each for each in judged if each.device == device]
        yield f"dense convolutions, {device}", "the device", own, _without(samples, own, chip_of)
    sparse = [each for each in samples if each.sparsity > 0]
    yield "sparse networks", "the network", sparse, _without(samples, sparse, lambda each: each.name)
    yield "sparse networks by family", "its family", sparse, _without(samples, sparse, family_of_sparse)
    yield "sparse networks by device", "all of its device", sparse, _without(samples, sparse, chip_of)
    dense = [each for each in samples if len(each.counts) > 1 and not each.sparsity]
    yield "dense networks", "their device", dense, _without(samples, dense, chip_of)
    whole = fit(samples)
    for dtype in ("float16", "int8"):
        own = [each for each in networks() if each.dtype == dtype]
        yield f"dense networks in {dtype}", "all of the type", own, whole.predict(own)
    kinds = {
        "dense int8 products": [each for each in products() if not each.sparsity and not each.name.endswith("x1")],
        "dense int8 products with a vector": [
            each for each in products() if not each.sparsity and each.name.endswith("x1")
        ],
        "sparse float32 products": [each for each in products() if each.sparsity and not each.name.endswith("x1")],
        "sparse float32 products with a vector": [
            each for each in products() if each.sparsity and each.name.endswith("x1")
        ],
    }
    for name, own in kinds.items():
        yield f"{name}, Cortex-A53", "all of the runtime", own, whole.predict(own)


def family_of_sparse(sample: Sample) -> tuple[bool, str]:
    """Dense networks of a family stay when sparse ones are left out."""
    return sample.sparsity > 0, family_of(sample)


def _without(samples: Sequence[Sample], judged: Sequence[Sample], group: Callable[[Sample], object]) -> np.ndarray:
    """(judged,): each as predicted from the samples of other groups."""
    told = np.zeros(len(judged))
    for name in dict.fromkeys(map(group, judged)):
        own = [at for at, each in enumerate(judged) if group(each) == name]
        fitted = fit([each for each in samples if group(each) != name])
        told[own] = fitted.predict([judged[at] for at in own])
    return told


def _errors(told: np.ndarray, times: Sequence[Sample]) -> tuple[float, float, float]:
    """Median relative error, Spearman's correlation, and the factor that all are within."""
    from scipy.stats import spearmanr

    taken = np.array([each.seconds for each in times])
    most = float(np.exp(np.abs(np.log(told / taken)).max()))
    return float(np.median(np.abs(told / taken - 1))), float(spearmanr(told, taken).statistic), most


def _gains(console: Console, samples: Sequence[Sample]) -> dict[str, float]:
    """By how much sparse networks are faster than dense ones, where both were published of one chip.

    No time of a 1x1 convolution was published of both: theirs are the networks' less what the rest should take.
    """
    table = Table("network", "dense by", "published", "estimated", "of the 1x1 alone", "estimated",
                  title="Gains of sparsity, Snapdragon 835, one thread")  # fmt: skip
    found: dict[str, float] = {}
    for sparse in (each for each in samples if each.sparsity):
        fitted = fit([each for each in samples if not (each.sparsity and each.name == sparse.name)])
        for dense in samples:
            same_chip = chip_of(dense) == chip_of(sparse) and dense.place.threads == 1
            if dense.sparsity or dense.name != sparse.name or not same_chip:
                continue
            clock = dense.place.core.clock_hz / sparse.place.core.clock_hz
            pointwise = [a != b for a, b in zip(dense.counts, sparse.counts, strict=True)]
            (dense_s, sparse_s), (dense_1x1_s, sparse_1x1_s), (dense_rest_s, sparse_rest_s) = (
                fitted.predict([_part(dense, chosen), _part(sparse, chosen)])
                for chosen in ([True] * len(pointwise), pointwise, [not each for each in pointwise])
            )
            published_gain = clock * dense.seconds / sparse.seconds
            gain = clock * float(dense_s / sparse_s)
            published_1x1 = clock * float((dense.seconds - dense_rest_s) / (sparse.seconds - sparse_rest_s))
            gain_1x1 = clock * float(dense_1x1_s / sparse_1x1_s)
            table.add_row(sparse.name, dense.runtime, f"{published_gain:.2f}", f"{gain:.2f}", f"{published_1x1:.2f}",
                          f"{gain_1x1:.2f}")  # fmt: skip
            found[f"gain_{dense.runtime}_error"] = abs(gain / published_gain - 1)
            found[f"gain_1x1_{dense.runtime}_error"] = abs(gain_1x1 / published_1x1 - 1)
    console.print(table)
    return found


def _part(sample: Sample, chosen: Sequence[bool]) -> Sample:
    """A network of some of its layers."""
    return replace(sample, counts=tuple(each for each, wanted in zip(sample.counts, chosen, strict=True) if wanted))


def _machine_code(console: Console, name: str, core: str | None) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Spills in inner loops, and what part of the busiest pipes' time multiply-adds are, of every kernel."""
    target, mca = load_target(name).with_threads(1), find_mca()
    if target.core is None:
        raise InputError(f"target {name} has no [core] whose kernels could be looked at")
    core = core or MCA_CORES.get(target.core.name, target.core.name.lower().replace(" ", "-"))
    if mca is None:
        console.print("No llvm-mca is here (Debian: `apt-get install llvm`): loops are not scheduled.")
    table = Table("layer", "choice", "kernel", "multiply-adds", "instructions", "spills", "spills elsewhere",
                  "multiply-adds' share", "busiest", title=f"Inner loops for {name}, by LLVM's {core}")  # fmt: skip
    rows: list[dict[str, object]] = []
    shares, spilled = [], 0
    for shape, choices in KERNELS:
        layer = _layer(shape)
        for text in choices:
            for kernel in kernels_for(layer, choice := parse_choice(text), target):
                code = layer_assembly(layer, choice, target, kernel)
                loop = busiest_loop(code)
                told = schedule(loop, core, mca) if mca else None
                elsewhere = sum(each.spills for each in loops(code)) - loop.spills
                share = math.nan if told is None else told.share
                table.add_row(shape, text, kernel, str(loop.multiply_adds), str(len(loop.lines)), str(loop.spills),
                              str(elsewhere), f"{share:.0%}" if told else "", told.port if told else "")  # fmt: skip
                rows.append({"layer": shape, "choice": text, "kernel": kernel, "loop": loop.lines,
                             "spills": loop.spills, "schedule": _told(told)})  # fmt: skip
                shares.append(share)
                spilled += loop.spills > 0
    console.print(table)
    enough = float(np.mean(np.array(shares) >= LEAST_SHARE)) if mca else math.nan
    return {"kernels": len(shares), "kernels_that_spill": spilled, "kernels_of_enough_multiply_adds": enough}, rows


def _layer(shape: str) -> Layer:
    size = (1, 1) if shape == "1x1" else (3, 3)
    made = convolution(128, (28, 28), 128, size, depthwise=shape == "depthwise")
    return replace(made, name="layer", weight="weight")


def _told(found: Schedule | None) -> dict[str, object] | None:
    return None if found is None else asdict(found)
