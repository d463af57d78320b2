"""Attention in tile registers: what both directions share, packing of rows of heads into panels and their products.

All operands of a head lie in the second cache, split into parts and packed (``tiles.py``). A product of two panels,
each two tiles wide, gives a square of ``BLOCK`` rows and columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import streams, tiles
from bucketmod.compiler.kernels.attention.heads import Heads, Place

Expr = Any
Buffer = Any

LANES = tiles.SIDE
BLOCK = 2 * tiles.SIDE  # rows, or columns, of a panel
PANEL = 2 * tiles.TILE * tiles.PARTS  # words of a step of a panel
_RANGES, _LEAST_UNITS = 8, 8  # filling and emptying the pipeline takes the time of one unit in each range
# Measured on one and two threads: with 128 rows forward 1.0 to 1.25 times and backward 1.1 to 1.2 times as fast as in
# vector registers, with 256 rows 1.2 to 1.35 and 1.1 to 1.2 times; with 96 rows and less not always faster: too few
# products share what packing and the softmax cost.
LEAST_ROWS = 112
_TOGETHER = 4  # pairs of vectors that are split at once


def steps_of(values: int) -> int:
    return -(-values // tiles.STEP)


def ranges(total: int, nanoseconds: float) -> Any:
    """A loop over ranges of ``total`` units, each (begin, end): threads share them where ``nanoseconds``, the time of
    all on one thread, are worth it."""
    size = max(_LEAST_UNITS, -(-total // _RANGES))

    @contextlib.contextmanager
    def loop() -> Iterator[tuple[Expr, Expr]]:
        with streams.tasks(-(-total // size), nanoseconds) as number:
            yield known(number * size), known(T.min((number + 1) * size, total))

    return loop()


def known(value: Expr) -> Expr:
    """An index, computed here and kept in a register: TVM's simplifier, which takes seconds for long ones, cannot see
    through it."""
    return value if isinstance(value, int) else emit.let(value)


class Panels:
    """One head of one sequence at a time; ``buffers``: those of the kernel, by name."""

    def __init__(self, heads: Heads, buffers: dict[str, Any]):
        self.p, self.buffers = heads, buffers
        self.b: Expr = 0
        self.h: Expr = 0

    def enter(self, head: Expr) -> None:
        """Binds the sequence and the head that a task is for."""
        self.b, self.h = known(head // self.p.heads), known(head % self.p.heads)

    def row(self, place: Place, t: Expr) -> Expr:
        return place.at(self.b, self.h, t, 0)

    def fetch_next(self, names: dict[str, tuple[Place, int]], head: Expr, row: Expr) -> None:
        """Asks for row ``row`` of the next head in some tensors, of so many values: rows of heads lie far apart, where
        the CPU does not fetch ahead by itself."""
        b, h = known((head + 1) // self.p.heads), known((head + 1) % self.p.heads)
        for name, (place, size) in names.items():
            at = known(place.at(b, h, row, 0))
            for first in range(0, size, emit.LINE):
                emit.prefetch(self.buffers[name], at + first)

    def part(self, name: str, at: Expr, first: Expr, size: int, exists: Expr | None = None) -> Expr:
        """Values ``first`` and following of the row of ``size`` that starts at ``at``: a vector, with zeros after the
        row's end and where the row does not exist."""
        width: Expr | None = None
        if size % BLOCK:
            width = known(T.max(T.min(size - first, LANES), 0))
        if exists is not None:
            width = known(T.if_then_else(exists, LANES if width is None else width, T.int32(0)))
        return emit.load(self.buffers[name], at + first, lanes=LANES, width=width)

    def along(
        self, name: str, place: Place, size: int, total: int, target: Buffer, scale: float = 1.0, apart: int = 1
    ) -> None:
        """All ``total`` rows as left panels: pairs along the rows; the last is repeated. A panel starts ``apart``
        panels after the one before."""
        with T.serial(steps_of(total) * BLOCK) as t:
            row = t if total % BLOCK == 0 else T.min(t, total - 1)
            to = known(t // BLOCK * (apart * steps_of(size) * PANEL) + t % BLOCK * LANES)
            self.along_row(name, known(self.row(place, row)), size, target, to, scale)

    def along_row(self, name: str, at: Expr, size: int, target: Buffer, to: Expr, scale: float = 1.0) -> None:
        """The row that starts at ``at``, as a row of a left panel: word ``to`` is its first."""
        for start, count in groups(steps_of(size), _TOGETHER // 2):
            numbers = [start + i for i in range(count)]
            pairs = [tuple(self.part(name, at, n * BLOCK + half * LANES, size) for half in range(2)) for n in numbers]
            if scale != 1:
                pairs = [tuple(x * emit.splat(scale, LANES) for x in pair) for pair in pairs]
            store_pairs(pairs, target, [to + n * PANEL for n in numbers])

    def across(self, name: str, place: Place, size: int, total: int, target: Buffer) -> None:
        """All ``total`` rows as right panels: pairs of rows, the values in columns. Beyond the last come zeros."""
        with T.serial(steps_of(total) * LANES) as pair:
            self.across_pair(name, place, size, total, target, pair)

    def across_pair(self, name: str, place: Place, size: int, total: int, target: Buffer, pair: Expr) -> None:
        """One of the ``steps_of(total) * LANES`` pairs of rows of ``across``."""
        step, number = known(pair // LANES), known(pair % LANES)
        rows = [known(step * BLOCK + number + half * LANES) for half in range(2)]
        exist = [None if total % BLOCK == 0 else row < total for row in rows]
        starts = [known(self.row(place, T.min(row, total - 1))) for row in rows]
        to, apart = known(step * PANEL + number * LANES), steps_of(total) * PANEL
        for start, count in groups(-(-size // LANES), _TOGETHER):
            columns = [start + i for i in range(count)]
            pairs = [
                tuple(self.part(name, at, c * LANES, size, e) for at, e in zip(starts, exist, strict=True))
                for c in columns
            ]
            store_pairs(pairs, target, [known(to + c // 2 * apart + c % 2 * tiles.TILE) for c in columns])

    def columns(self, name: str, place: Place, size: int, total: int, target: Buffer, scale: float = 1.0) -> None:
        """All ``total`` rows as right panels: pairs along the rows, each row a column. The last is repeated."""
        steps = steps_of(size)
        squares = emit.scratch(2 * tiles.TILE)
        with T.serial(-(-total // LANES)) as tile, T.serial(steps) as step:
            with T.serial(2) as half:
                rows = []
                for i in range(LANES):
                    row = tile * LANES + i if total % LANES == 0 else T.min(tile * LANES + i, total - 1)
                    value = self.part(name, known(self.row(place, row)), step * BLOCK + half * LANES, size)
                    rows.append(emit.let(value if scale == 1 else value * emit.splat(scale, LANES)))
                for i, value in enumerate(emit.transpose(rows)):
                    emit.store(squares, value, half * tiles.TILE + i * LANES, lanes=LANES)
            to = known(tile // 2 * (steps * PANEL) + step * PANEL + tile % 2 * tiles.TILE)
            with T.serial(LANES // _TOGETHER) as group:
                rows = [(group * _TOGETHER + i) * LANES for i in range(_TOGETHER)]
                pairs = [
                    tuple(emit.load(squares, half * tiles.TILE + row, lanes=LANES) for half in range(2)) for row in rows
                ]
                store_pairs(pairs, target, [to + row for row in rows])

    def store_rows(
        self, name: str, place: Place, source: Buffer, stride: int, first: Expr, total: int, size: int,
        change: Callable[[Expr, Expr], Expr] | None = None, skip: int = 0,
    ) -> None:  # fmt: skip
        """Copies up to ``BLOCK`` rows of a head from ``source`` to where they belong: those from row ``first`` on that
        exist. ``change(row, value)`` gives what is stored; ``skip``: rows of ``source`` before the first."""
        with T.serial(T.min(BLOCK, total - first) if total % BLOCK else BLOCK) as i:
            at = known(self.row(place, first + i))
            for column in range(0, size, LANES):
                value = emit.load(source, (skip + i) * stride + column, lanes=LANES)
                value = value if change is None else change(i, value)
                emit.store(self.buffers[name], value, at + column, lanes=LANES, width=size - column)


def store_pairs(pairs: Sequence[Any], target: Buffer, places: Sequence[Expr]) -> None:
    """Splits pairs of vectors; each becomes a row of a tile in a panel, which starts at its word of ``places``."""
    buffer, first = target if isinstance(target, tuple) else (target, 0)
    for parts, at in zip(tiles.split_together(pairs), places, strict=True):
        tiles.store_parts(parts, buffer, first + at, 2 * tiles.TILE)


class Spread:
    """``items`` pieces of vector work, ``item(number)`` each, spread evenly over the places between tile products.

    Tile and vector registers work at the same time, but a CPU looks only as far ahead as the next few tile products:
    they have to alternate with some 100 other instructions at a time.
    """

    def __init__(self, items: Expr, item: Callable[[Expr], None], places: Sequence[int]):
        self.items, self.item, self.places = items, item, list(places)

    def place(self, step: Expr, number: int, steps: int) -> None:
        """The items that belong after product ``number`` of step ``step`` of ``steps``."""
        if number not in self.places:
            return
        total = steps * len(self.places)
        at = known(step * len(self.places) + self.places.index(number))
        first = known(at * self.items // total)
        with T.serial(known((at + 1) * self.items // total) - first) as i:
            self.item(known(first + i))


def products(
    left: tuple[Buffer, Expr], right: tuple[Buffer, Expr], steps: int, count: int, target: tuple[Buffer, Expr],
    stride: int, beside: Sequence[Spread] = (), lefts: int = 1,
) -> None:  # fmt: skip
    """A left panel times ``count`` right panels, each (buffer, first word): ``BLOCK`` rows of ``target``, which lie
    ``stride`` apart. With several ``lefts`` each has its own right panels and its own rows, one after the other."""
    with T.serial(count * lefts) as n:
        number, column = (known(n // count), known(n % count)) if lefts > 1 else (0, n)
        rights = tiles.Panel(right[0], known(right[1] + n * (steps * PANEL)), 2, 2)

        def between(step: Expr, product: int) -> None:
            for work in beside:
                work.place(n * steps + step, product, count * lefts * steps)

        for register in range(4):
            tiles.zero(register)
        one = tiles.Panel(left[0], known(left[1] + number * (steps * PANEL)), 2, 2)
        sums = tiles.multiply(one, rights, steps, between=between)
        for r, registers in enumerate(sums):
            for c, register in enumerate(registers):
                row = number * BLOCK + r * tiles.SIDE
                to = known(target[1] + row * stride + column * BLOCK + c * tiles.SIDE)
                tiles.store(register, target[0], to, stride * 4)


def pieces(vectors: Expr, count: int) -> list[Expr]:
    """The ``count`` vectors that a wider one consists of: several in one, for instructions that wait for each other."""
    if count == 1:
        return [vectors]
    return [emit.let(tirx.Shuffle([vectors], list(range(i * LANES, (i + 1) * LANES)))) for i in range(count)]


def over_lanes(value: Expr, operation: Callable[[Expr, Expr], Expr]) -> Expr:
    """All lanes combined, in every lane."""
    distance = LANES // 2
    while distance:
        value = emit.let(value)
        other = tirx.Shuffle([value], [(lane + distance) % LANES for lane in range(LANES)])
        value = operation(value, other)
        distance //= 2
    return emit.let(value)


def groups(count: int, most: int) -> Iterator[tuple[Expr, int]]:
    """(first, number) of groups of at most ``most``: a loop over the whole ones, and the rest."""
    whole, rest = divmod(count, most)
    if whole:
        with T.serial(whole) as group:
            yield group * most, most
    if rest:
        yield whole * most, rest



