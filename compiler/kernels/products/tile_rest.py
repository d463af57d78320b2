"""What is left of K below a step of tiles: the six products of the parts lie one behind another along it.

A step filled up with zeros would cost six products of tiles. Of a rest of 8 values the six products make 48, which is
two: either side has each value six times, in the part that belongs to the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import tiles
from bucketmod.compiler.kernels.tiles import PRODUCTS, SIDE, STEP, TILE

Expr = Any
Buffer = Any

_TILES = 2  # side by side on each side of the product


def count(depth: int) -> int:
    """Tiles along K for the rest of ``depth``; 0 where there is none, or where a step filled up costs no more."""
    needed = -(-PRODUCTS * (depth % STEP) // STEP)
    return needed if needed < PRODUCTS and depth > STEP else 0


def words(depth: int) -> int:
    """Of one side's packed tiles."""
    return count(depth) * _TILES * TILE


def store_row(values: Sequence[Expr], depth: int, side: int, buffer: Buffer, at: Expr, apart: int) -> None:
    """Stores a row of tiles: the rest's ``values``, two vectors of them with zeros at the end. The first tile's row is
    at word ``at``, each next one ``apart`` words later. ``side``: 0 for the left side of the product."""
    rest, lanes = depth % STEP, 2 * SIDE
    line = T.alloc_buffer((count(depth) * lanes + lanes,), "uint16", layout=None)
    for tile in range(count(depth)):
        zeros = tirx.Broadcast(tirx.IntImm("uint16", 0), lanes)
        T.buffer_store(line, zeros, [T.ramp(tile * lanes, 1, lanes)])
    parts = tiles.split(*values)
    for number, pair in enumerate(tiles.ORDER):
        word = parts[pair[side]]
        # Vectors are longer than the rest: the next product's values overwrite their zeros.
        for half, shift in enumerate((0, 16) if rest > SIDE else (0,)):
            value = tirx.Cast(f"uint16x{SIDE}", word >> tirx.Broadcast(tirx.IntImm("uint32", shift), SIDE))
            T.buffer_store(line, value, [T.ramp(number * rest + half * SIDE, 1, SIDE)])
    for tile in range(count(depth)):
        pairs = tirx.reinterpret(f"uint32x{SIDE}", line[T.ramp(tile * lanes, 1, lanes)])
        T.buffer_store(buffer, pairs, [T.ramp(at + tile * apart, 1, SIDE)])


def store_columns(read: Callable[[Expr], Sequence[Expr]], depth: int, buffer: Buffer, at: Expr, apart: int) -> None:
    """Stores right tiles of 16 columns, each ``apart`` words after the one before: ``read(column)`` is the rest's
    values of a column."""
    rows = T.alloc_buffer((count(depth) * TILE,), "uint32", layout=None)
    with T.serial(SIDE) as column:
        store_row(read(column), depth, 1, rows, column * SIDE, TILE)
    with T.serial(count(depth)) as tile:
        square = emit.transpose([emit.let(rows[T.ramp(tile * TILE + r * SIDE, 1, SIDE)]) for r in range(SIDE)])
        for r, value in enumerate(square):
            T.buffer_store(buffer, value, [T.ramp(at + tile * apart + r * SIDE, 1, SIDE)])


def multiply(left: Buffer, left_at: Expr, right: Buffer, right_at: Expr, depth: int) -> None:
    """Adds the rest's product to the sums of ``tiles.multiply`` for 2 x 2 tiles."""
    for tile in range(count(depth)):
        at = tile * _TILES * TILE
        tiles.multiply_once((left, left_at + at), (right, right_at + at))
