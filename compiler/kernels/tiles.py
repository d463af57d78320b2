"""Matrix products in tile registers (AMX), as exact as in vector registers.

A tile instruction multiplies bfloat16 numbers, sixteen times as many a cycle as there are float32 multiply-adds, and
adds up in float32. A float32 number is the sum of three bfloat16 numbers, exactly: ``split`` finds them. Of the nine
products of two such sums the three smallest are below float32's own rounding and left out, which leaves 16 / 6 times
the speed (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
computations", 2019). What differs from float32: infinite factors give NaN, and parts below 1e-38 count as zero.

Operands are packed into panels of tiles side by side, step after step along K; a step is 32 values deep. Left tiles
have 16 rows of 16 pairs of values, right tiles 16 rows, one for each pair, of 16 columns. Pair p of a step holds its
values p and p + 16, so that two vectors become the pairs of each part without a shuffle.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit

Expr = Any
Buffer = Any

SIDE = 16  # rows of a tile, its columns of float32, and the lanes of a vector
STEP = 32  # values of K in a tile
PARTS = 3  # high, middle and low: the bfloat16 numbers that a float32 number is the sum of
TILE = SIDE * SIDE  # 4-byte words

_ROW_BYTES = 64
_FIRST_LEFT = 4  # the registers before it hold sums
# (part of the left, part of the right), the largest product last but for what the order saves in loads: each differs
# from the one before in one side only. The sums of the second numbers are at most 2.
ORDER = ((2, 0), (1, 0), (0, 0), (0, 2), (0, 1), (1, 1))
PRODUCTS = len(ORDER)


@contextlib.contextmanager
def tile_registers(rows: int = SIDE, left_tiles: int = 2) -> Iterator[None]:
    """Emits what is inside with the running thread's tile registers set up, with rows of 64 bytes.

    There are 16 of them, or fewer ``rows`` in the sums and the left tiles of a ``multiply`` of ``left_tiles`` by
    anything: a product takes a cycle for each.
    """
    setup = T.alloc_buffer((SIDE,), "int32", layout=None)
    first_right = _FIRST_LEFT + (PARTS if left_tiles == 1 else left_tiles)
    rows_of = [rows if register < first_right else SIDE for register in range(8)]
    # The words: palette 1; from byte 16 on the bytes of a row, from 48 on the rows.
    words = [1, 0, 0, 0, *([_ROW_BYTES | _ROW_BYTES << 16] * 4), 0, 0, 0, 0]
    words += [int.from_bytes(bytes(rows_of[at : at + 4]), "little") for at in (0, 4)]
    for at, word in enumerate([*words, 0, 0]):
        T.buffer_store(setup, T.int32(word), [at])
    _emit("ldtilecfg", T.address_of(setup[0]))
    yield
    _emit("tilerelease")


def zero(register: int) -> None:
    _emit("tilezero", _number(register))


def load(register: int, buffer: Buffer, at: Expr, row_bytes: Expr = _ROW_BYTES) -> None:
    """Loads a tile whose first row starts at element ``at`` of a flat buffer."""
    _emit("tileloadd64", _number(register), T.address_of(buffer[at]), _stride(row_bytes))


def store(register: int, buffer: Buffer, at: Expr, row_bytes: Expr = _ROW_BYTES) -> None:
    _emit("tilestored64", _number(register), T.address_of(buffer[at]), _stride(row_bytes))


def packed(size: int) -> Buffer:
    """Memory of the running thread for ``size`` words of packed pairs."""
    return T.alloc_buffer((size,), "uint32", layout=None)


def split(u: Expr, v: Expr) -> list[Expr]:
    """The parts, high to low, of the vectors ``u`` and ``v``: each a vector of pairs, one number of ``u`` and one of
    ``v``."""
    return split_together([(u, v)])[0]


def split_together(vectors: Sequence[tuple[Expr, Expr]]) -> list[list[Expr]]:
    """``split`` of several pairs of vectors, instruction by instruction: one pair alone is a chain that waits for
    itself, and beside tile products a CPU has few places for instructions that wait."""
    parts: list[list[Expr]] = [[] for _ in vectors]
    rest = [emit.let(x) for pair in vectors for x in pair]
    for part in range(PARTS):
        if part == PARTS - 1:  # eight bits are left, or less: no rounding
            high = [_bits(x) for x in rest]
        else:
            high = [emit.let(_bits(x) + _words(0x8000)) for x in rest]
            high = [emit.let(x & _words(_HIGH)) for x in high]
        shifted = [emit.let(low >> _words(16)) for low in high[::2]]
        for each, low, upper in zip(parts, shifted, high[1::2], strict=True):
            each.append(emit.let(_joined(low, upper)))
        if part < PARTS - 1:
            rest = [emit.let(x - tirx.reinterpret(_FLOATS, y)) for x, y in zip(rest, high, strict=True)]
    return parts


_FLOATS, _WORDS, _INTEGERS = f"float32x{SIDE}", f"uint32x{SIDE}", f"int32x{SIDE}"
_HIGH = 0xFFFF0000  # the bits of a float32 number that a bfloat16 number has


def _joined(low: Expr, high: Expr) -> Expr:
    """``low`` with the bits of ``_HIGH`` of ``high``. One instruction, where LLVM would take a permutation of three."""
    low, high = (tirx.reinterpret(_INTEGERS, x) for x in (low, high))
    mask = tirx.Broadcast(tirx.IntImm("int32", _HIGH - (1 << 32)), SIDE)
    either = T.int32(0xF8)  # the truth table of a | b & c
    name = "llvm.x86.avx512.pternlog.d.512"
    return tirx.reinterpret(_WORDS, T.call_llvm_pure_intrin(_INTEGERS, name, low, high, mask, either))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(_WORDS, x)


@functools.cache
def _words(value: int) -> Expr:
    return tirx.Broadcast(tirx.IntImm("uint32", value), SIDE)


def store_parts(parts: Sequence[Expr], buffer: Buffer, at: Expr, apart: int) -> None:
    """Stores the parts from ``split``: the first at word ``at``, each next one ``apart`` words later."""
    for number, part in enumerate(parts):
        T.buffer_store(buffer, part, [T.ramp(at + number * apart, 1, SIDE)])


@dataclass(frozen=True)
class Panel:
    """``tiles`` packed tiles side by side, each step in ``PARTS`` parts: words from ``first`` on of ``buffer``.

    ``stride``: tiles between the parts of a step, where the panel is part of a wider one.
    """

    buffer: Buffer
    first: Expr
    tiles: int
    stride: int

    def load(self, register: int, step: Expr, part: int, tile: int) -> None:
        load(register, self.buffer, self.first + (step * PARTS + part) * (self.stride * TILE) + tile * TILE)


def multiply(
    left: Panel, right: Panel, steps: Expr, between: Callable[[Expr, int], None] | None = None
) -> list[list[int]]:
    """Adds the product of two panels over ``steps`` to the tile registers that are returned, [left tile][right tile].

    At most 2 x 2 tiles, or 1 x 4, which the first four registers hold: whoever calls this clears or loads them before.
    ``between(step, number)`` emits what is done besides, while the tiles are busy, ``PRODUCTS`` times a step and evenly
    between the products: a CPU looks no more than a step ahead.
    """
    with T.serial(steps) as step:
        for number, _ in enumerate(sixths(left, right, step)):
            if between is not None:
                between(step, number)
    return [[2 * row + column for column in range(right.tiles)] for row in range(left.tiles)]


def sixths(left: Panel, right: Panel, step: Expr) -> Iterator[None]:
    """Emits one step of ``multiply`` in ``PRODUCTS`` equal pieces, whenever the next one is asked for."""
    return _multiply_row(left, right, step) if left.tiles == 1 else _multiply_square(left, right, step)


def _multiply_square(left: Panel, right: Panel, step: Expr) -> Iterator[None]:
    """One part of each side is in registers at a time. Emits piece by piece."""
    at_left, at_right = (_FIRST_LEFT, _FIRST_LEFT + 1), (6, 7)
    before: tuple[int, int] | tuple[None, None] = (None, None)
    for pair in ORDER:
        for panel, registers, part, last in zip((left, right), (at_left, at_right), pair, before, strict=True):
            for tile in range(panel.tiles if part != last else 0):
                panel.load(registers[tile], step, part, tile)
        before = pair
        for row, column in itertools.product(range(left.tiles), range(right.tiles)):
            _dot(2 * row + column, at_left[row], at_right[column])
        yield


def multiply_once(left: tuple[Buffer, Expr], right: tuple[Buffer, Expr]) -> None:
    """Adds the products of 2 x 2 single tiles to the sums of ``multiply``: (buffer, place) of two tiles in a row."""
    for first, (buffer, at) in ((_FIRST_LEFT, left), (_FIRST_LEFT + 2, right)):
        for tile in range(2):
            load(first + tile, buffer, at + tile * TILE)
    for row, column in itertools.product(range(2), range(2)):
        _dot(2 * row + column, _FIRST_LEFT + row, _FIRST_LEFT + 2 + column)


def _multiply_row(left: Panel, right: Panel, step: Expr) -> Iterator[None]:
    """The parts of the left tile stay in registers, each right tile passes by once. Emits piece by piece."""
    for part in range(PARTS):
        left.load(_FIRST_LEFT + part, step, part, 0)
    done = 0
    for part, tile in itertools.product(range(PARTS), range(right.tiles)):
        right.load(7, step, part, tile)
        for left_part in reversed(range(PARTS - part)):
            _dot(tile, _FIRST_LEFT + left_part, 7)
            done += 1
            if done % right.tiles == 0:
                yield


def _dot(total: int, left: int, right: int) -> None:
    _emit("tdpbf16ps", _number(total), _number(left), _number(right))


@functools.cache
def _number(register: int) -> Expr:
    return tirx.IntImm("int8", register)


def _stride(row_bytes: Expr) -> Expr:
    return tirx.IntImm("int64", row_bytes) if isinstance(row_bytes, int) else row_bytes


def _emit(instruction: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{instruction}", *arguments))
