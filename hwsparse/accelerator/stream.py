"""The command stream of a layer: bytes that the machine reads, written from a program and read back to one.

    head       magic, version, the machine's sizes, a checksum of all that is told of it, type, outputs, bytes of an
               output and of a residual's element, format, order, units of a set, chunks, axes, what lies beyond the
               edge, length of the name, the name
    geometry   the map's sizes, the kernel and how it slides
    table      for every unit the group of rows that does it, 16 bits each
    sections   for each set and chunk: how many entries each group of rows has (32 bits each), then the bits of all of
               them without gaps, beat after beat (`order`), filled up to a byte
    CRC-32 of everything before it

An entry's bits: its index, highest bit first, as its format has it (`Format.index_bits`; of a run, then whether it is
the last of its channel), then its values, an element's bytes in memory order. Little-endian throughout. The loader
unpacks entries into words of one width and gives every row that shares an index its own copy.

What is read is checked whole: a stream that is cut off, damaged, of another machine or of impossible sizes is one
error.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.format import KINDS, Format
from hwsparse.accelerator.geometry import Geometry
from hwsparse.accelerator.machine import ELEMENT_BYTES, HOST_BYTES, Accelerator, format_accelerator
from hwsparse.accelerator.order import Order
from hwsparse.accelerator.program import Program, decode_places
from hwsparse.accelerator.tiling import ORDERS, Tiling
from hwsparse.errors import ArtifactError, HwsparseError
from hwsparse.plan import Window

MAGIC, VERSION = b"HWSA", 3
_MOST_CHUNKS, _MOST_PASSES = 1 << 16, 1 << 20
_NOBODY = 0xFFFF  # the group of a unit without weights
_DTYPES = tuple(ELEMENT_BYTES)
_MACHINE = ("rows", "columns", "lanes", "accumulators", "run_bits")
_HEAD = struct.Struct("<4sH5HIB IBB BBBBB BII Bb H")
_AXIS = struct.Struct("<I5I")


def write_stream(accelerator: Accelerator, program: Program) -> bytes:
    """A program as the machine reads it."""
    form, tiling, geometry = program.form, program.tiling, program.geometry
    name = program.name.encode()[:0xFFFF]
    parts = [
        _HEAD.pack(
            MAGIC, VERSION, *(getattr(accelerator, field) for field in _MACHINE), _checksum(accelerator),
            _DTYPES.index(program.dtype),
            program.outputs, program.output_bytes, program.residual_bytes, KINDS.index(form.kind), form.share,
            form.span, form.n, form.m, ORDERS.index(tiling.order), tiling.set_units, len(tiling.chunks),
            len(geometry.sizes), program.pad, len(name),
        ),
        name,
        struct.pack("<II", geometry.batch, geometry.channels),
    ]  # fmt: skip
    window = geometry.window
    axes = zip(geometry.sizes, geometry.kernel, window.strides, window.pads, window.dilations, strict=True)
    parts += (_AXIS.pack(size, kernel, stride, *pads, dilation) for size, kernel, stride, pads, dilation in axes)
    parts.append(np.array([end for _, end in tiling.chunks], "<u4").tobytes())
    parts.append(np.where(program.groups == ABSENT, _NOBODY, program.groups).astype("<u2").tobytes())
    parts += _sections(accelerator, program)
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def _checksum(accelerator: Accelerator) -> int:
    """Of all that is told of a machine: streams are cut to its buffers, and timed by the rest."""
    return zlib.crc32("\n".join(format_accelerator(accelerator)).encode())


def section_bytes(accelerator: Accelerator, program: Program) -> np.ndarray:
    """(sets, chunks) bytes to fetch of each section; a set's table comes with its first."""
    form = program.form
    bits = form.index_bits(accelerator.run_bits) + 8 * accelerator.element_bytes * form.share * form.span
    head = 4 * (accelerator.rows // form.share)
    found: np.ndarray = head + (program.counts.sum(axis=2, dtype=np.int64) * bits + 7) // 8
    units = np.diff(np.minimum(np.arange(program.sets + 1) * program.tiling.set_units, program.units))
    found[:, 0] += 2 * units
    return found


def _sections(accelerator: Accelerator, program: Program) -> list[bytes]:
    """Entries of each pass, packed."""
    form, flat = program.form, program.counts.reshape(-1, program.tiling.set_units)
    bits = form.index_bits(accelerator.run_bits)
    code = program.skips.astype(np.uint16)
    if form.kind == "runs":
        code <<= 1
        ends = np.cumsum(program.counts.reshape(-1))[program.counts.reshape(-1) > 0] - 1
        code[ends] |= 1
    raw = np.ascontiguousarray(program.values).view(np.uint8).reshape(len(program.values), -1)
    sizes = flat.sum(axis=1)
    found = []
    lengths = program.entries(accelerator.rows // form.share).reshape(len(flat), -1)
    owners = np.repeat(program.set_groups(), len(program.tiling.chunks), axis=0)
    for start, counts, owner, length in zip(np.cumsum(sizes) - sizes, flat, owners, lengths, strict=True):
        order = Order.of(owner, length)
        mine = start + order.by_unit(counts)[order.beats()]
        if bits:
            index = (code[mine, None] >> np.arange(bits - 1, -1, -1)).astype(np.uint8) & 1
            packed = np.packbits(np.concatenate([index, np.unpackbits(raw[mine], axis=1)], axis=1)).tobytes()
        else:
            packed = raw[mine].tobytes()
        found.append(length.astype("<u4").tobytes() + packed)
    return found


@dataclass(slots=True)
class _Reader:
    """Takes bytes off the front."""

    data: memoryview
    at: int = 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise ArtifactError(f"the command stream ends within what begins at byte {self.at}; write it anew")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def numbers(self, count: int, dtype: str) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)


def read_stream(accelerator: Accelerator, stream: bytes) -> Program:
    """The program of a stream.

    Raises:
        ArtifactError: cut off, damaged, of another machine, or not a stream.
    """
    if len(stream) < _HEAD.size + 4 or stream[:4] != MAGIC:
        raise ArtifactError("this is no command stream, or one that is cut off within its head")
    if zlib.crc32(stream[:-4]) != struct.unpack("<I", stream[-4:])[0]:
        raise ArtifactError(f"the command stream of {len(stream)} bytes is cut off or damaged: its checksum differs")
    try:
        return _read(accelerator, _Reader(memoryview(stream)[:-4]))
    except ArtifactError:
        raise
    except HwsparseError as error:
        raise ArtifactError(f"the command stream is of an impossible layer: {error}") from None


def _read(accelerator: Accelerator, reader: _Reader) -> Program:
    _, version, *rest = _HEAD.unpack(reader.take(_HEAD.size))
    if version != VERSION:
        raise ArtifactError(f"the command stream is of version {version}; this is {VERSION}")
    machine, (dtype, outputs, *sizes, kind, share, span, n, m, order, width, chunk_count, axes, pad, name) = (
        rest[:5], rest[6:],
    )  # fmt: skip
    output_bytes, residual_bytes = sizes
    mine = [getattr(accelerator, field) for field in _MACHINE]
    if machine != mine or _DTYPES[dtype : dtype + 1] != (accelerator.dtype,):
        raise ArtifactError(
            f"the command stream is for another machine: {', '.join(_MACHINE)} are {machine}, here {mine}; compile anew"
        )
    if rest[5] != _checksum(accelerator):
        raise ArtifactError(
            "the command stream is for another machine: of the same array, but with other buffers, banks, memory or "
            "clock; compile anew"
        )
    text = bytes(reader.take(name)).decode(errors="replace")
    batch, channels = reader.unpack(struct.Struct("<II"))
    each = [reader.unpack(_AXIS) for _ in range(axes)]
    pads = tuple((axis[3], axis[4]) for axis in each)
    window = Window(tuple(axis[2] for axis in each), pads, tuple(axis[5] for axis in each))
    geometry = Geometry(batch, channels, tuple(a[0] for a in each), tuple(a[1] for a in each), window)
    if pad and accelerator.dtype != "int8":
        raise ArtifactError("the command stream reads other than zeros beyond the edge, which is int8's alone")
    known = {accelerator.element_bytes, HOST_BYTES}
    if output_bytes not in known or residual_bytes not in {0, *known}:
        raise ArtifactError("the command stream's outputs or residuals are neither of its type nor float32")
    if not (outputs and width and 0 < chunk_count <= _MOST_CHUNKS and kind < len(KINDS) and order < 2):
        raise ArtifactError("the command stream's head is of an impossible layer")
    form = Format(KINDS[kind], share, span, n, m)
    sizes_fit = min(share, span, n, m) >= 1 and accelerator.rows % share == 0 and n <= m <= 1 << accelerator.run_bits
    ends = [0, *map(int, reader.numbers(chunk_count, "<u4"))]
    if not sizes_fit or ends[-1] != geometry.inputs or any(b <= a or b % form.step for a, b in pairwise(ends)):
        raise ArtifactError("the command stream's chunks or blocks do not fit its layer")
    tiling = Tiling(ORDERS[order], width, tuple(pairwise(ends)))
    if width > accelerator.rows // share * accelerator.accumulators:
        raise ArtifactError(f"the command stream has sets of {width} channels, more than there are accumulators for")
    units = -(-outputs // share)
    groups = reader.numbers(units, "<u2").astype(np.int32)
    groups[groups == _NOBODY] = ABSENT
    if groups.max(initial=0) >= accelerator.rows // share or tiling.sets(units) * chunk_count > _MOST_PASSES:
        raise ArtifactError("the command stream names rows that the machine does not have, or has too many passes")
    counts, skips, values = _read_sections(accelerator, reader, form, tiling, groups)
    if reader.at != len(reader.data):
        raise ArtifactError(f"the command stream goes on for {len(reader.data) - reader.at} bytes after its end")
    return Program(
        text,
        accelerator.dtype,
        outputs,
        output_bytes,
        residual_bytes,
        geometry,
        pad,
        form,
        tiling,
        groups,
        counts,
        skips,
        values,
    )


def _read_sections(
    accelerator: Accelerator, reader: _Reader, form: Format, tiling: Tiling, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sets, width = tiling.sets(len(groups)), tiling.set_units
    counts = np.zeros((sets, len(tiling.chunks), width), np.int32)
    bits, elements = form.index_bits(accelerator.run_bits), form.share * form.span
    value_bytes = elements * accelerator.element_bytes
    groups_there = accelerator.rows // form.share
    all_codes, all_values = [], []
    for number in range(sets):
        mine = groups[number * width : (number + 1) * width]
        there = np.flatnonzero(mine != ABSENT)
        if len(there) and np.bincount(mine[there]).max() > accelerator.accumulators:
            raise ArtifactError("the command stream gives a row more channels than it has accumulators for")
        for chunk, (start, end) in enumerate(tiling.chunks):
            lengths = reader.numbers(groups_there, "<u4").astype(np.int64)
            if lengths.max(initial=0) * form.span > accelerator.row_words:
                raise ArtifactError("the command stream gives a row more words than its memory holds")
            size = int(lengths.sum())
            raw = np.frombuffer(reader.take((size * (bits + 8 * value_bytes) + 7) // 8), np.uint8)
            order, code, value = (
                Order.of(mine, lengths),
                np.empty(size, np.uint16),
                np.empty((size, value_bytes), np.uint8),
            )
            beats = order.beats()
            code[beats], value[beats] = _unpack(raw, size, bits, value_bytes)
            found = _entry_counts(form, code, len(there), (end - start) // form.span)
            index = (code >> 1 if form.kind == "runs" else code).astype(np.uint8)
            fits = len(found) == len(there) and found.sum(dtype=np.int64) == size
            if not fits or decode_places(form, found, index).max(initial=0) * form.span >= end - start:
                raise ArtifactError(f"the command stream's entries of set {number}, chunk {chunk} do not fit its layer")
            counts[number, chunk, : len(mine)] = own = order.counts(found, len(mine))
            if (np.bincount(mine[there], own[there], groups_there) != lengths).any():
                raise ArtifactError(f"the command stream's rows of set {number}, chunk {chunk} do not fit its table")
            places = order.by_unit(own)
            by_unit = np.empty_like(index), np.empty_like(value)
            by_unit[0][places], by_unit[1][places] = index, value
            all_codes.append(by_unit[0])
            all_values.append(by_unit[1])
    values = np.concatenate(all_values).view(accelerator.dtype).reshape(-1, form.span, form.share)
    return counts, np.concatenate(all_codes), values


def _unpack(raw: np.ndarray, size: int, bits: int, value_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """(entries,) index codes and (entries, bytes) values."""
    if not bits:
        return np.zeros(size, np.uint16), raw.reshape(size, value_bytes).copy()
    wide = bits + 8 * value_bytes
    found = np.unpackbits(raw, count=size * wide).reshape(size, wide)
    code = (found[:, :bits].astype(np.uint16) << np.arange(bits - 1, -1, -1, dtype=np.uint16)).sum(1, dtype=np.uint16)
    return code, np.packbits(found[:, bits:], axis=1).reshape(size, value_bytes)


def _entry_counts(form: Format, code: np.ndarray, units: int, places: int) -> np.ndarray:
    """(units,) entries of each unit; of runs as their ends say."""
    if form.kind == "dense":
        return np.full(units, places, np.int32)
    if form.kind == "groups":
        return np.full(units, places // form.m * form.n, np.int32)
    ends = np.flatnonzero(code & 1)
    if len(code) and (not len(ends) or ends[-1] != len(code) - 1):
        return np.zeros(0, np.int32)  # the last channel has no end
    found: np.ndarray = np.diff(ends, prepend=-1).astype(np.int32)
    return found
