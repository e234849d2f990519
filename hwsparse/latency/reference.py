"""Published times of real devices, as `targets/reference/` has them: small tables, each with its sources at its top.

A published kernel is counted as one of ours would be with as many registers: products keep sums of `TILE_ROWS` rows
by `TILE_VECTORS` vectors, sparse ones of as many rows as share their zeros by `SPARSE_VECTORS`. How good it is beyond
that is its runtime's, and what the fit tells apart.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hwsparse import stricttoml
from hwsparse.core import Core, read_core
from hwsparse.errors import InputError
from hwsparse.latency.core_model import DEPTHWISE, ELEMENTWISE, PRODUCT, WINOGRAD, Counts, Place
from hwsparse.latency.reference_networks import convolution, network
from hwsparse.plan import Layer
from hwsparse.target import reference_directory

TILE_ROWS, TILE_VECTORS, SPARSE_VECTORS = 4, 5, 4
LANES, FLOAT_BYTES = 4, 4
# Of the published Winograd kernels: F(4x4, 3x3), and products for each place of a tile.
OUTPUT_TILE, PLACES = 4, 36
TVM = "tvm"
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """A published time: of one layer, or of a network, whose layers take their time one after the other."""

    runtime: str
    device: str
    name: str
    dtype: str
    sparsity: float
    counts: tuple[Counts, ...]
    place: Place
    seconds: float


@dataclass(frozen=True, slots=True)
class _Machine:
    core: Core
    bandwidth_bytes_per_s: float


# Threads with which TVM ran the convolutions: one on each big core.
_BIG_CORES = {"snapdragon-835": 4, "kirin-970": 4, "rk3399": 2, "bcm2837": 4, "zynq-7020": 2}


@lru_cache(maxsize=1)
def convolutions() -> tuple[Sample, ...]:
    """Single float32 convolutions.

    Raises:
        InputError: the table is missing or malformed.
    """
    return tuple(read_convolutions(reference_directory() / "convolutions.csv"))


def read_convolutions(path: Path) -> Iterator[Sample]:
    """Single float32 convolutions of a table in the form of ours.

    Raises:
        InputError: the table is missing or malformed.
    """
    machines = _machines()
    sizes = ("channels", "height", "width", "outputs", "kernel_h", "kernel_w", "stride", "pad_h", "pad_w")
    for where, row in _rows(path, ("template", *sizes, *_BIG_CORES)):
        template = row["template"]
        if template not in ("spatial_pack", "winograd", "depthwise"):
            raise InputError(f"{where}: unknown template {template!r}")
        channels, height, width, outputs, kernel_h, kernel_w, stride, pad_h, pad_w = (
            _number(where, row, key, int) for key in sizes
        )
        layer = convolution(
            channels, (height, width), outputs, (kernel_h, kernel_w), stride, (pad_h, pad_w),
            depthwise=template == "depthwise",
        )  # fmt: skip
        counts = (_winograd(layer) if template == "winograd" else counts_of(layer),)
        for device, threads in _BIG_CORES.items():
            place = Place(machines[device].core, machines[device].bandwidth_bytes_per_s, threads)
            taken_s = 1e-6 * _number(where, row, device, float)
            yield Sample(TVM, device, layer.signature, "float32", 0.0, counts, place, taken_s)


@lru_cache(maxsize=1)
def networks() -> tuple[Sample, ...]:
    """Whole networks, dense and sparse, of all types of numbers.

    Raises:
        InputError: the table is missing or malformed.
    """
    machines = _machines()
    columns = ("runtime", "device", "threads", "network", "dtype", "sparsity", "block", "milliseconds")
    found = []
    for where, row in _rows(reference_directory() / "networks.csv", columns):
        if row["device"] not in machines:
            raise InputError(f"{where}: no device {row['device']!r} in devices.toml")
        machine = machines[row["device"]]
        place = Place(machine.core, machine.bandwidth_bytes_per_s, _number(where, row, "threads", int))
        sparsity, block = _number(where, row, "sparsity", float), _number(where, row, "block", int)
        if not (0 <= sparsity < 1 and block >= 1 and place.threads >= 1):
            raise InputError(f"{where}: sparsity is from 0 to 1, block and threads are at least 1")
        counts = _of_network(row["network"], row["dtype"], sparsity, block, place.core, where)
        taken_s = 1e-3 * _number(where, row, "milliseconds", float)
        found.append(
            Sample(row["runtime"], row["device"], row["network"], row["dtype"], sparsity, counts, place, taken_s)
        )
    return tuple(found)


@lru_cache(maxsize=1)
def products() -> tuple[Sample, ...]:
    """Products of matrices, dense and sparse, and of matrices with a vector.

    Raises:
        InputError: the table is missing or malformed.
    """
    columns = ("runtime", "device", "threads", "dtype", "rows", "columns", "inner", "sparsity", "milliseconds")
    machines, found = _machines(), []
    for where, row in _rows(reference_directory() / "products.csv", columns):
        if row["device"] not in machines:
            raise InputError(f"{where}: no device {row['device']!r} in devices.toml")
        machine = machines[row["device"]]
        threads, rows, wide, inner = (_number(where, row, key, int) for key in ("threads", "rows", "columns", "inner"))
        sparsity = _number(where, row, "sparsity", float)
        rate, number_bytes = _rate(row["dtype"], machine.core, where)
        place = Place(machine.core, machine.bandwidth_bytes_per_s, threads)
        counts = counts_of(convolution(inner, (1, wide), rows, (1, 1)), sparsity, 1, rate, number_bytes)
        if wide == 1:  # what a vector is multiplied by is loaded for it alone
            counts = replace(counts, loads=2 * counts.multiply_adds, accumulators=TILE_ROWS)
        name, taken_s = f"{rows}x{inner}x{wide}", 1e-3 * _number(where, row, "milliseconds", float)
        found.append(Sample(row["runtime"], row["device"], name, row["dtype"], sparsity, (counts,), place, taken_s))
    return tuple(found)


def chip_of(sample: Sample) -> str:
    """The chip of a device: two of them have the same one."""
    return "snapdragon-835" if sample.device == "pixel-2" else sample.device


def family_of(sample: Sample) -> str:
    """What networks of one kind have in common: mobilenet-v2, of whatever width; efficientnet."""
    name = sample.name.partition("@")[0]
    return next(
        (family for family in ("mobilenet-v1", "mobilenet-v2", "efficientnet") if name.startswith(family)), name
    )


def counts_of(layer: Layer, sparsity: float = 0.0, block: int = 1, rate: float = 1.0, number_bytes: int = 4) -> Counts:
    """What a convolution takes whose weights are zero in that share, `block` outputs together.

    Args:
        rate: multiply-adds of its numbers for one of float32.
        number_bytes: of an activation and of a weight.
    """
    kept = 1 - sparsity
    multiply_adds = layer.macs * kept / LANES / rate
    weights = math.prod(layer.weight_shape) * kept * (number_bytes + (FLOAT_BYTES / block if sparsity else 0))
    moved = number_bytes * (math.prod(layer.input_shape) + math.prod(layer.output_shape)) + weights
    rows, vectors = (block, SPARSE_VECTORS) if sparsity else (TILE_ROWS, TILE_VECTORS)
    kind = DEPTHWISE if layer.groups > 1 else PRODUCT
    return Counts(kind, multiply_adds, multiply_adds * (1 / rows + 1 / vectors), moved, rows * vectors)


def _winograd(layer: Layer, rate: float = 1.0, number_bytes: int = 4) -> Counts:
    tiles = math.prod(-(-size // OUTPUT_TILE) for size in layer.output_shape[2:])
    multiply_adds = PLACES * tiles * layer.input_shape[1] * layer.outputs / LANES / rate
    plain = counts_of(layer, rate=rate, number_bytes=number_bytes)
    return Counts(WINOGRAD, multiply_adds, 0.0, plain.bytes, plain.accumulators)


def _of_network(name: str, dtype: str, sparsity: float, block: int, core: Core, where: str) -> tuple[Counts, ...]:
    rate, number_bytes = _rate(dtype, core, where)
    layers = network(name)
    last = [at for at, layer in enumerate(layers) if _pointwise(layer)][-_BLOCKED.get(name.partition("@")[0], 0) :]
    found = []
    for at, layer in enumerate(layers):
        classifier = at == len(layers) - 1 and name.startswith("efficientnet")
        if sparsity and (_pointwise(layer) or classifier):
            found.append(counts_of(layer, sparsity, block if at in last else 1))
        elif layer.groups > 1 and dtype == "int8":  # there are no dot products in it
            found.append(counts_of(layer, rate=1.0, number_bytes=1))
        elif not sparsity and layer.weight_shape[2:] == (3, 3) and _in_tiles(layer, dtype):
            found.append(_winograd(layer, rate, number_bytes))
        else:
            found.append(counts_of(layer, rate=rate, number_bytes=number_bytes))
    return (*found, _between(layers)) if name.startswith("efficientnet") else tuple(found)


def _rate(dtype: str, core: Core, where: str) -> tuple[float, int]:
    """Multiply-adds of a type for one of float32, and bytes of a number."""
    rates = {"float32": (1.0, 4), "float16": (core.float16_rate, 2), "int8": (core.int8_rate, 1)}
    if dtype not in rates:
        raise InputError(f"{where}: {stricttoml.known(dtype, rates)}")
    return rates[dtype]


# How many of the 1x1 convolutions at the end have zeros in blocks: MobileNetV1's last block, MobileNetV2's from the
# eleventh on and what follows them.
_BLOCKED = {"mobilenet-v1": 1, "mobilenet-v2": 15, "mobilenet-v2-cache-aware": 15}


def _pointwise(layer: Layer) -> bool:
    return layer.weight_shape[2:] == (1, 1) and layer.input_shape[2:] != (1, 1)


def _in_tiles(layer: Layer, dtype: str) -> bool:
    """Whether runtimes take Winograd's method for a 3x3 convolution."""
    return layer.groups == 1 and layer.window is not None and layer.window.strides == (1, 1) and dtype != "int8"


# Instructions for a vector: x times its sigmoid (counted in f32-vsigmoid of XNNPACK, neonfma rr1 p5 nr2recps, and a
# product with it), and, where channels are weighed, their mean and a product.
SWISH_SLOTS, WEIGHED_SLOTS = 25, 5


def _between(layers: tuple[Layer, ...]) -> Counts:
    """What an EfficientNet does to the values that go into its depthwise layers, come out of them, or end it."""
    into = sum(math.prod(layer.input_shape) for layer in layers if layer.groups > 1)
    out = sum(math.prod(layer.output_shape) for layer in layers if layer.groups > 1)
    slots = SWISH_SLOTS * (into + out + math.prod(layers[-2].output_shape)) + WEIGHED_SLOTS * out
    return Counts(ELEMENTWISE, slots / LANES, 0.0, 0.0, TILE_ROWS * TILE_VECTORS)


@lru_cache(maxsize=1)
def _machines() -> Mapping[str, _Machine]:
    path = reference_directory() / "devices.toml"
    found = {}
    for name, table in stricttoml.loads(_text(path)).items():
        where = f"{path.name} [{name}] "
        stricttoml.only(table, ("bandwidth_bytes_per_s", "core"), where)
        core = read_core(stricttoml.value(table, "core", dict, where))
        found[name] = _Machine(core, stricttoml.value(table, "bandwidth_bytes_per_s", float, where))
    return found


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a table whose header is exactly `columns`; lines that begin with # are about it."""
    lines = [line for line in _text(path).splitlines() if not line.startswith("#")]
    reader = csv.reader(lines, strict=True)
    if tuple(next(reader, ())) != columns:
        raise InputError(f"{path.name}: its header must be {','.join(columns)}")
    for cells in reader:
        where = f"{path.name}: {','.join(cells)[:60]}"
        if len(cells) != len(columns):
            raise InputError(f"{where}: not as many cells as the header has")
        yield where, dict(zip(columns, cells, strict=True))


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:MAX_BYTES].decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _number(where: str, row: Mapping[str, str], key: str, kind: type) -> Any:
    try:
        found = kind(row[key])
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and 0 <= found < 1e12):
        raise InputError(f"{where}: {key} is {row[key]!r}, no number that it can be")
    return found
