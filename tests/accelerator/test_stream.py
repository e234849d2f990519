"""Command streams: read back as they were written; cut off, damaged or foreign they are one clear error."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine
from hwsparse.accelerator import Accelerator, Program, compile_layer, read_stream, write_stream
from hwsparse.accelerator.stream import section_bytes
from hwsparse.errors import ArtifactError


def drawn(seed: int, dtype: str = "int8") -> tuple[Accelerator, Program]:
    random = np.random.default_rng(seed)
    machine = draw_machine(random, dtype)
    return machine, compile_layer(machine, draw_layer(random, dtype).product)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


@given(st.integers(0, 2**32), st.sampled_from(["int8", "float16", "float32"]))
def test_what_is_written_reads_back(seed: int, dtype: str) -> None:
    machine, program = drawn(seed, dtype)
    stream = write_stream(machine, program)
    found = read_stream(machine, stream)
    for field in ("name", "dtype", "outputs", "output_bytes", "residual_bytes", "geometry", "pad", "form", "tiling"):
        assert getattr(found, field) == getattr(program, field)
    for field in ("groups", "counts", "skips", "values"):
        assert np.array_equal(getattr(found, field), getattr(program, field))
    # What is said to be fetched is what the stream holds beyond its head.
    assert 0 < len(stream) - section_bytes(machine, program).sum() < 300


@given(st.integers(0, 2**32), st.data())
def test_a_stream_that_is_cut_off_or_damaged_is_refused(seed: int, data: st.DataObject) -> None:
    machine, program = drawn(seed % 50)
    stream = write_stream(machine, program)
    with pytest.raises(ArtifactError, match="cut off"):
        read_stream(machine, stream[: data.draw(st.integers(0, len(stream) - 1))])
    at = data.draw(st.integers(0, len(stream) - 1))
    damaged = bytearray(stream)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ArtifactError) as caught:
        read_stream(machine, bytes(damaged))
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32), st.data())
def test_a_stream_that_lies_under_a_right_checksum_is_read_or_refused(seed: int, data: st.DataObject) -> None:
    machine, program = drawn(seed % 50)
    body = bytearray(write_stream(machine, program)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(len(body) // 2, len(body)))]
    try:
        found = read_stream(machine, sealed(bytes(body)))
    except ArtifactError:
        return
    # Other weights, or another name: still a program of the machine.
    assert found.words().shape[0] == found.sets


def test_a_stream_of_another_machine_is_refused() -> None:
    machine, program = drawn(1)
    stream = write_stream(machine, program)
    with pytest.raises(
        ArtifactError, match=r"is for another machine: rows, columns, lanes, accumulators, run_bits are .* compile anew"
    ):
        read_stream(replace(machine, accumulators=machine.accumulators + 3), stream)
    for changed in ({"input_banks": 2 * machine.input_banks}, {"weights_bytes": machine.weights_bytes + 1}):
        with pytest.raises(ArtifactError, match="of the same array, but with other buffers, banks, memory or clock"):
            read_stream(replace(machine, **changed), stream)


def test_what_goes_on_after_the_end_is_refused() -> None:
    machine, program = drawn(2)
    with pytest.raises(ArtifactError, match="goes on for 3 bytes after its end"):
        read_stream(machine, sealed(write_stream(machine, program)[:-4] + b"abc"))


@pytest.mark.parametrize("text", [b"", b"HWSA", b"x" * 1000, bytes(100)])
def test_what_is_no_stream_is_refused(text: bytes) -> None:
    machine, _ = drawn(0)
    with pytest.raises(ArtifactError, match="no command stream"):
        read_stream(machine, text)
