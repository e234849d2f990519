"""Copies within kernels: runs of known length, padded lines, and squares turned over.

LLVM is left nothing to guess: short runs, of 7 or 14 floats, and transpositions would otherwise go one
float at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from hwsparse.codegen.cpu.arithmetic import Arithmetic
from hwsparse.codegen.cpu.geometry import Geometry


def runs(count: int, lanes: int) -> list[tuple[int, int]]:
    """`count` places as (start, width) of vectors: whole ones, then halves of them, down to one place."""
    cut, start = [], 0
    while start < count:
        while lanes > count - start:
            lanes //= 2
        cut.append((start, lanes))
        start += lanes
    return cut


def prefetch(buffer: Any, place: Any, for_writing: bool = False) -> None:
    """Emits a prefetch of the cache line of `buffer[place]` into L1."""
    address = T.address_of(buffer[place])
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, T.int32(for_writing), T.int32(3), T.int32(1)))


def copy_run(count: int, lanes: int) -> Any:
    """An inline function of (to, to_start, source, start) that copies `count` floats."""
    whole = count - count % lanes
    eight = int(count % lanes >= 8)
    four = int(count % lanes % 8 >= 4)
    tail = whole + 8 * eight + 4 * four

    @T.inline
    def copy(to, to_start, source, start):
        for i in range(whole // lanes):
            for lane in T.vectorized(lanes):
                to[to_start + i * lanes + lane] = source[start + i * lanes + lane]
        if eight > 0:
            for lane in T.vectorized(8):
                to[to_start + whole + lane] = source[start + whole + lane]
        if four > 0:
            for lane in T.vectorized(4):
                to[to_start + whole + 8 * eight + lane] = source[start + whole + 8 * eight + lane]
        for i in T.unroll(count - tail):
            to[to_start + tail + i] = source[start + tail + i]

    return copy


def copy_past(lanes: int) -> Any:
    """An inline function of (to, to_start, source, start, count) that copies whole vectors, past `count` floats."""

    @T.inline
    def copy(to, to_start, source, start, count):
        for i in range((count + lanes - 1) // lanes):
            for lane in T.vectorized(lanes):
                to[to_start + i * lanes + lane] = source[start + i * lanes + lane]

    return copy


def copy_every(count: int, stride: int, lanes: int) -> Any:
    """An inline function of (to, to_start, source, start) that copies `count` floats lying `stride` apart."""
    if stride == 1:
        return copy_run(count, lanes)
    # Pairs are read whole: the last one may end outside of the source.
    pairs = count - 1 if stride == 2 else 0

    def copy_first_of_pairs(to: Any, to_start: Any, source: Any, start: Any) -> None:
        for place, width in runs(pairs, lanes):
            if width == 1:
                T.buffer_store(to, source[start + 2 * place], [to_start + place])
            else:
                halves = [T.bind(source[T.Ramp(start + 2 * place + half, 1, width)]) for half in (0, width)]
                evens = tirx.Shuffle(halves, list(range(0, 2 * width, 2)))
                T.buffer_store(to, evens, [T.Ramp(to_start + place, 1, width)])

    @T.inline
    def copy(to, to_start, source, start):
        copy_first_of_pairs(to, to_start, source, start)
        for i in range(count - pairs):
            to[to_start + pairs + i] = source[start + (pairs + i) * stride]

    return copy


# Pieces of a line that are copied one by one: images have no more.
MOST_PIECES = 64
WordOf = Callable[[Sequence[Any], int], Any]  # of inputs, in vectors of so many lanes


def copy_words(count: int, stride: int, lanes: int, word_of: WordOf) -> Callable[[Any, Any, Any, Sequence[Any]], None]:
    """A function of (to, to_start, source, starts) that copies words, whose inputs lie `stride` apart in planes."""
    # As in `copy_every`.
    vectors = count if stride == 1 else count - 1 if stride == 2 else 0

    def load(source: Any, start: Any, width: int) -> Any:
        if stride == 1:
            return source[T.Ramp(start, 1, width)]
        halves = [T.bind(source[T.Ramp(start + half, 1, width)]) for half in (0, width)]
        return tirx.Shuffle(halves, list(range(0, 2 * width, 2)))

    def copy_at(to: Any, to_start: Any, source: Any, starts: Sequence[Any], place: Any, width: int) -> None:
        if width == 1:
            word = word_of([source[start + place * stride] for start in starts], 1)
            T.buffer_store(to, word, [to_start + place])
        else:
            word = word_of([load(source, start + place * stride, width) for start in starts], width)
            T.buffer_store(to, word, [T.Ramp(to_start + place, 1, width)])

    def copy_pieces(to: Any, to_start: Any, source: Any, starts: Sequence[Any]) -> None:
        for place, width in [*runs(vectors, lanes), *((place, 1) for place in range(vectors, count))]:
            copy_at(to, to_start, source, starts, place, width)

    if vectors // lanes + count - vectors <= MOST_PIECES:
        return copy_pieces
    whole = vectors - vectors % lanes

    def copy_rest(to: Any, to_start: Any, source: Any, starts: Sequence[Any]) -> None:
        for place, width in runs(vectors - whole, lanes):
            copy_at(to, to_start, source, starts, whole + place, width)

    # Of a long line, as of sound, code for each piece would take the compiler minutes.
    @T.inline
    def copy(to, to_start, source, starts):
        for i in range(whole // lanes):
            copy_at(to, to_start, source, starts, i * lanes, lanes)
        copy_rest(to, to_start, source, starts)
        for i in range(count - vectors):
            copy_at(to, to_start, source, starts, vectors + i, 1)

    return copy


def copy_line(geometry: Geometry, pitch: int, lanes: int) -> Any:
    """An inline function that copies an input line, padded and cut into stride phases.

    Phase b holds, in `pitch` places, the pixels whose column in the padded line is b modulo the stride, so
    that every tap of a window reads a contiguous run at any stride.

    Its arguments are (to, start, x, plane, row): the line `row` of input plane `plane` goes to `start`; a row
    outside the image is written as zeros.
    """
    in_h, in_w, pad_left, stride = geometry.in_h, geometry.in_w, geometry.pad_left, geometry.stride_w

    width = pad_left + in_w + geometry.pad_right

    def copy_phases(to: Any, start: Any, x: Any, place: Any) -> None:
        for phase in range(stride):
            # The first places in the phase that lie at or past the image's two edges, and the padding's end.
            first, end, last = (-(-(edge - phase) // stride) for edge in (pad_left, pad_left + in_w, width))
            if end > first:
                copy = copy_every(end - first, stride, lanes)
                copy(to, start + phase * pitch + first, x, place + first * stride + phase - pad_left)
            for j in (*range(first), *range(max(first, end), last)):
                T.buffer_store(to, T.float32(0), [start + phase * pitch + j])

    @T.inline
    def line(to, start, x, plane, row):
        if tirx.all(row >= 0, row < in_h):
            copy_phases(to, start, x, (plane * in_h + row) * in_w)
        else:
            for j in range(stride * pitch):
                to[start + j] = T.float32(0)

    return line


def join_neighbours(count: int, lanes: int, arithmetic: Arithmetic) -> Any:
    """An inline function of (to, start, source) that makes `count` words, from `start` on, of inputs side by side.

    It is for words of one or two inputs.
    """

    def store(to: Any, source: Any, place: Any, width: int) -> None:
        each = arithmetic.inputs_of_word
        if width == 1:
            T.buffer_store(to, arithmetic.word_of([source[each * place + at] for at in range(each)], 1), [place])
            return
        if each == 1:
            every = T.Ramp(place, 1, width)
            T.buffer_store(to, arithmetic.word_of([source[every]], width), [every])
            return
        halves = [T.bind(source[T.Ramp(2 * place + half, 1, width)]) for half in (0, width)]
        parts = [tirx.Shuffle(halves, list(range(at, 2 * width, 2))) for at in (0, 1)]
        T.buffer_store(to, arithmetic.word_of(parts, width), [T.Ramp(place, 1, width)])

    @T.inline
    def join(to, start, source):
        for i in range(count // lanes):
            store(to, source, start + i * lanes, lanes)
        for i in range(count % lanes):
            store(to, source, start + count // lanes * lanes + i, 1)

    return join


def copy_line_of_words(geometry: Geometry, pitch: int, lanes: int, planes_at: Any, word_of: WordOf) -> Any:
    """As `copy_line`, of words whose inputs are of several planes; where the image ends they are `blank`.

    Its arguments are (to, start, x, plane, row, blank); `planes_at` gives for a plane of words where the planes begin
    that its inputs come from.
    """
    in_h, in_w, pad_left, stride = geometry.in_h, geometry.in_w, geometry.pad_left, geometry.stride_w
    width = pad_left + in_w + geometry.pad_right

    def copy_phases(to: Any, start: Any, x: Any, places: Sequence[Any], blank: Any) -> None:
        for phase in range(stride):
            first, end, last = (-(-(edge - phase) // stride) for edge in (pad_left, pad_left + in_w, width))
            if end > first:
                shifted = [place + first * stride + phase - pad_left for place in places]
                copy_words(end - first, stride, lanes, word_of)(to, start + phase * pitch + first, x, shifted)
            for j in (*range(first), *range(max(first, end), last)):
                T.buffer_store(to, blank, [start + phase * pitch + j])

    def copy_row(to: Any, start: Any, x: Any, plane: Any, row: Any, blank: Any) -> None:
        copy_phases(to, start, x, [place + row * in_w for place in planes_at(plane)], blank)

    @T.inline
    def line(to, start, x, plane, row, blank):
        if tirx.all(row >= 0, row < in_h):
            copy_row(to, start, x, plane, row, blank)
        else:
            for j in range(stride * pitch):
                to[start + j] = blank

    return line


def load_transposed(source: Any, start: Any, stride: int, lanes: int) -> list[Any]:
    """The columns of a square of `lanes` x `lanes` floats, whose row i lies at `start + i * stride`, as vectors.

    Eklundh's method: in each of log2(lanes) steps pairs of vectors exchange every other run of 1, 2, 4 ... lanes
    (IEEE Transactions on Computers 21(7), 1972).
    """
    rows = [T.bind(source[T.Ramp(start + i * stride, 1, lanes)]) for i in range(lanes)]
    run = lanes // 2
    while run:
        low = [lane ^ run | lanes if lane & run else lane for lane in range(lanes)]
        high = [lane | lanes if lane & run else lane | run for lane in range(lanes)]
        pairs = [[rows[i & ~run], rows[i | run]] for i in range(lanes)]
        rows = [T.bind(tirx.Shuffle(pair, high if i & run else low)) for i, pair in enumerate(pairs)]
        run //= 2
    return rows
