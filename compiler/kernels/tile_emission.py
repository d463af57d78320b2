"""The loops of a matrix product in tile registers, as its plan says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import tiles
from bucketmod.compiler.kernels.epilogue import activate, slope
from bucketmod.compiler.kernels.tile_plan import PAIR, PAIR_WORDS, SUMS, TilePlan, pairs
from bucketmod.compiler.kernels.tiles import PRODUCTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.gemm import Gemm

Expr = Any


def emit_tile_product(gemm: Gemm, p: TilePlan, buffers: dict[str, Any]) -> None:
    """Emits the loops of the product into the function under construction; ``buffers`` as ``emit_product`` has them."""
    _Emitter(gemm, p, buffers).run()


@dataclass(frozen=True)
class _Operand:
    """A or B as tiles see it: ``size`` lines, each with a value for every k.

    ``load(line, k, width)``: a vector along the lines or along K, whichever is contiguous; ``across``: that is not the
    order in which its tiles have them, so squares of values are transposed. ``sums``: its lines are added up.
    """

    size: int
    depth: int
    by_lines: bool
    across: bool
    right: bool
    sums: bool
    load: Callable[[Expr, Expr, Expr | None], Expr]
    prefetch: Callable[[Expr, Expr], None]


class _Emitter:
    def __init__(self, gemm: Gemm, p: TilePlan, buffers: dict[str, Any]):
        self.gemm, self.plan, self.buffers = gemm, p, buffers
        self.steps, self.k_blocks = p.steps(gemm), p.blocks_of_k(gemm)
        self.lead: list[Expr] = []
        left_across, right_across = p.transposes(gemm)
        a = (gemm.m, gemm.trans_a, gemm.column_sums, self.load_a, self.prefetch_a)
        b = (gemm.n, not gemm.trans_b, False, self.load_b, self.prefetch_b)
        left, right = (b, a) if p.swap else (a, b)
        # A right operand that lies along tiles is packed beside the products of the block of K before.
        self.ahead = self.k_blocks > 1 and not right_across
        self.left = _Operand(left[0], gemm.k, left[1], left_across, False, *left[2:])
        self.turned: Any = None
        self.right = _Operand(right[0], gemm.k, right[1], right_across, True, *right[2:])

    def run(self) -> None:
        gemm, p = self.gemm, self.plan
        row_blocks, column_blocks = p.blocks(gemm)
        if self.left.across:
            self.turn_left()
        with (T.parallel if p.parallel else T.serial)(p.tasks(gemm)) as task:
            # Neighbouring tasks, which one thread runs one after the other, share columns.
            self.row_block = T.bind(task % row_blocks)
            self.column_block = T.bind(task // row_blocks % column_blocks)
            if gemm.batch > 1:
                self.lead = [T.bind(task // (row_blocks * column_blocks))]
            with tiles.tile_registers():
                self.task()

    def turn_left(self) -> None:
        """Copies a left operand that lies across into rows along K, as many as whole pairs have, with zeros behind."""
        gemm, operand, squares = self.gemm, self.left, self.steps * STEP // SIDE
        rows, depth = pairs(operand.size) * PAIR, self.steps * STEP
        parts = rows // PAIR
        batched = self.lead_count(operand)
        self.turned = emit.scratch(batched * rows * depth)
        with (T.parallel if self.plan.parallel else T.serial)(batched * parts) as part:
            if gemm.batch > 1:
                self.lead = [T.bind(part // parts)]
            line = T.bind(part % parts * PAIR)
            totals = [self.start_sums(operand) for _ in range(2)]
            with T.serial(squares) as square:
                for tile in range(2):
                    first, k = T.bind(line + tile * SIDE), T.bind(square * SIDE)
                    values = []
                    for row in range(SIDE):
                        place = (first, k + row)
                        values.append(emit.let(operand.load(*place, _width(operand, *place))))
                        self.add_up(totals[tile], k, row, values[-1])
                    at = T.bind((part * PAIR + tile * SIDE) * depth + k)
                    for row, value in enumerate(emit.transpose(values)):
                        emit.store(self.turned, value, at + row * depth, lanes=SIDE)
            for tile in range(2 * operand.sums):
                self.put_sums(totals[tile], T.bind(line + tile * SIDE), operand)

    def lead_count(self, operand: _Operand) -> int:
        """Matrices that the operand has."""
        gemm = self.gemm
        batched = gemm.batch_a if operand.load == self.load_a else gemm.batch_b
        return gemm.batch if batched else 1

    def load_turned(self, line: Expr, k: Expr) -> Expr:
        return emit.load(self.turned, self.turned_place(line, k), lanes=SIDE)

    def turned_place(self, line: Expr, k: Expr) -> Expr:
        depth = self.steps * STEP
        place = line * depth + k
        if self.lead and self.lead_count(self.left) > 1:
            place = place + self.lead[0] * (pairs(self.left.size) * PAIR * depth)
        return place

    def task(self) -> None:
        p = self.plan
        # One pair of the left operand is multiplied while the next is packed.
        self.packed_left = tiles.packed(2 * p.depth * PAIR_WORDS)
        self.right_words = p.columns * p.depth * PAIR_WORDS
        self.packed_right = tiles.packed(self.right_words * (1 + self.ahead))
        self.sums = emit.scratch(SUMS * (p.rows * p.columns if self.k_blocks > 1 else 2))
        self.waiting = T.alloc_buffer((3,), "int32", layout=None)  # finished sums: their place, and their lines
        T.buffer_store(self.waiting, -1, [0])
        if self.ahead:
            self.first_step, self.depth, self.right_half = 0, min(self.steps, p.depth), 0
            self.pack_right()
        with T.serial(self.k_blocks) as k_block:
            self.k_block = k_block
            self.first_step = T.bind(k_block * p.depth)
            self.depth = T.bind(T.min(self.steps - self.first_step, p.depth)) if self.steps % p.depth else p.depth
            self.right_half = emit.let((k_block & 1) * self.right_words) if self.ahead else 0
            if self.ahead:
                self.start_ahead()
            else:
                self.pack_right()
            self.rows()
            if self.ahead:
                with T.serial(T.max(self.ahead_pieces - self.progress[0], 0)):
                    self.pack_ahead()
        self.finish()

    def each_pair(self, operand: _Operand, block: Expr, count: int, body: Callable[[Expr, Expr, int], None]) -> None:
        """``body(number in the block, first line, tiles)`` for the pairs of tiles of a block; the last pair of all may
        have one tile."""
        whole, odd = divmod(-(-operand.size // SIDE), 2)
        low = T.bind(block * count)
        if whole:
            with T.serial(T.max(T.min(whole - low, count), 0)) as i:
                body(i, T.bind((low + i) * PAIR), 2)
        if odd:
            with T.If(T.bind(block == whole // count)), T.Then():
                body(whole % count, whole * PAIR, 1)

    # Operands.

    def load_a(self, line: Expr, k: Expr, width: Expr | None) -> Expr:
        at = (k, line) if self.gemm.trans_a else (line, k)
        return emit.load(self.buffers["A"], *self.lead_of("A"), *at, lanes=SIDE, width=width)

    def prefetch_a(self, line: Expr, k: Expr) -> None:
        at = (k, line) if self.gemm.trans_a else (line, k)
        emit.prefetch(self.buffers["A"], *self.lead_of("A"), *at)

    def load_b(self, line: Expr, k: Expr, width: Expr | None) -> Expr:
        gemm = self.gemm
        if not gemm.shift:
            at = (line, k) if gemm.trans_b else (k, line)
            return emit.load(self.buffers["B"], *self.lead_of("B"), *at, lanes=SIDE, width=width)
        found, row = emit.Register(SIDE), T.bind(k - gemm.shift)
        with T.If(row >= 0 if gemm.shift > 0 else row < gemm.k):
            with T.Then():
                found.value = emit.load(self.buffers["B"], row, line, lanes=SIDE, width=width)
            with T.Else():
                row = row + gemm.shift if gemm.shift > 0 else row - gemm.k
                found.value = emit.load(self.buffers["edge"], row, line, lanes=SIDE, width=width)
        return found.value

    def prefetch_b(self, line: Expr, k: Expr) -> None:
        at = (line, k) if self.gemm.trans_b else (k - self.gemm.shift, line)
        emit.prefetch(self.buffers["B"], *self.lead_of("B"), *at)

    def lead_of(self, name: str) -> list[Expr]:
        batched = {"A": self.gemm.batch_a, "B": self.gemm.batch_b}.get(name, True)
        return self.lead if batched else []

    # Packing.

    def pack_right(self) -> None:
        """The right operand's part of the task, in the order in which it lies in memory."""
        if self.right.by_lines:
            with T.serial(self.depth) as step:
                self.each_pair(self.right, self.column_block, self.plan.columns,
                               lambda *pair: self.pack_tiles(*pair, step))  # fmt: skip
            return

        def pack(*pair: Any) -> None:
            with T.serial(self.depth) as step:
                self.pack_tiles(*pair, step)

        self.each_pair(self.right, self.column_block, self.plan.columns, pack)

    def pack_tiles(self, number: Expr, line: Expr, count: int, step: Expr) -> None:
        """The tiles of one pair and step of the right operand."""
        operand, whole_steps = self.right, self.gemm.k // STEP
        with T.serial(count) as tile:
            start, k = T.bind(line + tile * SIDE), T.bind((self.first_step + step) * STEP)
            at = T.bind(self.right_half + (number * self.plan.depth + step) * PAIR_WORDS + tile * TILE)
            inside = []
            if operand.size % SIDE:
                inside.append(start + SIDE <= operand.size)
            if self.gemm.k % STEP:
                inside.append(self.first_step + step < whole_steps)

            def pack(whole: bool) -> None:
                totals = self.start_sums(operand)
                put = _across if operand.across else _along
                put(operand, self.packed_right, at, start, k, whole, lambda *v: self.add_up(totals, k, *v))
                self.finish_sums(totals, start, step, operand)

            if operand.across and inside:  # it is long code, and masks are not what takes time there
                pack(False)
            else:
                _either(inside, pack)

    def start_ahead(self) -> None:
        """Begins to pack the right operand for the next block of K."""
        p, first_tile = self.plan, 2 * self.column_block * self.plan.columns
        tiles_here = T.min(-(-self.right.size // SIDE) - first_tile, 2 * p.columns)
        self.ahead_tiles = emit.let(tiles_here)
        steps = T.max(T.min(self.steps - self.first_step - p.depth, p.depth), 0)
        self.ahead_pieces = emit.let(steps * self.ahead_tiles * SIDE)
        self.progress = T.alloc_buffer((3,), "int32", layout=None)  # pieces; the tile and the step of the next
        for place in range(3):
            T.buffer_store(self.progress, 0, [place])

    def pack_ahead(self) -> None:
        """The next row of a packed tile, in the order in which the operand lies in memory."""
        p, operand = self.plan, self.right
        done, tile, step = (emit.let(self.progress[place]) for place in range(3))
        row = emit.let(done & (SIDE - 1))
        line = emit.let(2 * SIDE * self.column_block * p.columns + tile * SIDE)
        k = emit.let((self.first_step + p.depth + step) * STEP)
        place = (tile >> 1) * (p.depth * PAIR_WORDS) + step * PAIR_WORDS + (tile & 1) * TILE + row * SIDE
        place = emit.let(self.right_words - self.right_half + place)
        whole = operand.size % SIDE == 0 and operand.depth % STEP == 0
        totals = self.start_sums(operand)
        for later in (row, row + SIDE):  # rows lie so far apart that the CPU does not guess the next ones
            operand.prefetch(line, k + STEP + later)
        _piece_along(operand, self.packed_right, place, line, k, row, whole, lambda *v: self.add_up(totals, k, *v))
        self.finish_sums(totals, line, 1, operand)
        T.buffer_store(self.progress, done + 1, [0])
        with T.If(row == SIDE - 1), T.Then():
            more = emit.let(T.Cast("int32", tile + 1 < self.ahead_tiles))
            T.buffer_store(self.progress, (tile + 1) * more, [1])
            T.buffer_store(self.progress, step + 1 - more, [2])

    def start_sums(self, operand: _Operand) -> emit.Register | None:
        if not operand.sums:
            return None
        total = emit.Register(SIDE)
        total.value = emit.splat(0.0, SIDE)
        return total

    def add_up(self, total: emit.Register | None, first_k: Expr, row: Expr, value: Expr) -> None:
        """Adds the values of all lines at k = ``first_k`` + ``row``."""
        if total is None:
            return
        if weights := self.buffers.get("weights"):
            value = value * emit.splat(weights[T.min(first_k + row, self.gemm.k - 1)], SIDE)
        total.value = total.value + value

    def finish_sums(self, total: emit.Register | None, line: Expr, step: Expr, operand: _Operand) -> None:
        """The first of the tasks that pack these lines adds what a step comes to."""
        if total is None:
            return
        with T.If(self.row_block == 0), T.Then():
            with T.If(self.first_step + step > 0), T.Then():
                width = T.bind(T.min(operand.size - line, SIDE)) if operand.size % SIDE else None
                total.value = total.value + emit.load(self.buffers["sums"], line, lanes=SIDE, width=width)
            self.put_sums(total, line, operand)

    def put_sums(self, total: emit.Register, line: Expr, operand: _Operand) -> None:
        width = T.bind(T.min(operand.size - line, SIDE)) if operand.size % SIDE else None
        emit.store(self.buffers["sums"], total.value, line, lanes=SIDE, width=width)

    # The left operand is packed in pieces, each so short that the CPU does it beside products.

    def pack_piece(self, line: Expr, half: Expr, number: Expr) -> None:
        """A row of a packed tile of the pair from ``line`` on."""
        operand, first = self.left, half * (self.plan.depth * PAIR_WORDS)
        # By shifts and in registers: TVM takes long over divisions, and over variables that it sees through.
        row, tile = emit.let(number & (SIDE - 1)), emit.let(number >> (SIDE.bit_length() - 1))
        step, side = emit.let(tile >> 1), emit.let(tile & 1)
        place = emit.let(first + step * PAIR_WORDS + side * TILE + row * SIDE)
        start, k = emit.let(line + side * SIDE), emit.let((self.first_step + step) * STEP)
        whole = operand.size % PAIR == 0 and operand.depth % STEP == 0
        if operand.across:
            u, v = (emit.let(self.load_turned(start + row, k + far)) for far in (0, SIDE))
            for far in (0, SIDE):
                emit.prefetch(self.turned, self.turned_place(start + row + PAIR, k + far))
            tiles.store_parts(tiles.split(u, v), self.packed_left, place, 2 * TILE)
        else:
            _piece_along(operand, self.packed_left, place, start, k, row, whole, lambda *_: None)

    # Products.

    def rows(self) -> None:
        """Pairs of tiles of the left operand, each with all columns of the task, while the next pair is packed."""
        p, left, right = self.plan, self.left, self.right
        first_row, first_column = T.bind(self.row_block * p.rows), T.bind(self.column_block * p.columns)
        rows = T.bind(T.min(pairs(left.size) - first_row, p.rows))
        columns = T.bind(T.min(pairs(right.size) - first_column, p.columns))
        ahead = -(-2 * SIDE // (PRODUCTS * p.rows)) if self.ahead else 0
        at_once = -(-2 * SIDE // (PRODUCTS * p.columns))  # pieces after each product
        each = T.bind(self.depth * (2 * SIDE))
        with T.serial(rows + 1) as count:
            row = T.bind(count - 1)
            following = T.bind((first_row + count) * PAIR)
            pieces = T.bind(tirx.Select(count < rows, each, 0))
            with T.If(row >= 0), T.Then(), T.serial(columns) as column:
                done = T.bind(column * (self.depth * PRODUCTS * at_once))
                soon = T.bind(self.right_half + (column * p.depth + _SOON) * PAIR_WORDS)

                def between(step: Expr, beat: int) -> None:
                    for line in range(0, TILE, emit.LINE):  # the right pair of the next product
                        emit.prefetch(self.packed_right, soon + step * PAIR_WORDS + beat * TILE + line, first=True)
                    for i in range(at_once):
                        piece = emit.let(done + step * (PRODUCTS * at_once) + (beat * at_once + i))
                        with T.If(piece < pieces), T.Then():
                            self.pack_piece(following, count & 1, piece)
                    for _ in range(ahead):
                        with T.If(self.progress[0] < self.ahead_pieces), T.Then():
                            self.pack_ahead()

                lines = T.bind((first_row + row) * PAIR), T.bind((first_column + column) * PAIR)
                self.product((row, column), lines, between)
            wide = T.min(columns, -(-right.size // SIDE) // 2 - first_column)  # a pair of one tile is over too soon
            packed = T.bind(tirx.Select(row >= 0, wide * (self.depth * PRODUCTS * at_once), 0))
            with T.serial(T.max(pieces - packed, 0)) as i:
                self.pack_piece(following, count & 1, T.bind(packed + i))

    def product(self, pair: tuple[Expr, Expr], lines: tuple[Expr, Expr], between: Callable[[Expr, int], None]) -> None:
        """The pair numbered (row, column) of the task, which begins at ``lines`` of the two operands."""
        p, (row, column) = self.plan, pair
        number = T.bind(row * p.columns + column)
        at = T.bind((number if self.k_blocks > 1 else number & 1) * SUMS)

        def start(fresh: bool) -> None:
            for register in range(4):
                if fresh:
                    tiles.zero(register)
                else:
                    tiles.load(register, self.sums, at + register * TILE)

        _either([self.k_block == 0] * (self.k_blocks > 1), start)
        if self.k_blocks > 1:  # the next sums
            with T.serial(SUMS // emit.LINE) as line:
                emit.prefetch(self.sums, at + SUMS + line * emit.LINE, first=True)
        left_at = T.bind((row & 1) * (p.depth * PAIR_WORDS))
        right_at = T.bind(self.right_half + column * (p.depth * PAIR_WORDS))

        def multiply(left_tiles: int, right_tiles: int) -> None:
            left = tiles.Panel(self.packed_left, left_at, left_tiles, 2)
            right = tiles.Panel(self.packed_right, right_at, right_tiles, 2)
            tiles.multiply(left, right, self.depth, between=between if left_tiles + right_tiles == 4 else None)

        self.each_size(lines, multiply)
        self.finish()  # the sums before these, while the last products run
        for register in range(4):
            tiles.store(register, self.sums, at + register * TILE)

        def wait() -> None:
            for place, value in enumerate((at, *lines)):
                T.buffer_store(self.waiting, value, [place])

        _when([self.k_block == self.k_blocks - 1] if self.k_blocks > 1 else [], wait)

    def each_size(self, lines: tuple[Expr, Expr], body: Callable[[int, int], None]) -> None:
        """``body(left tiles, right tiles)`` for what there is at ``lines``: the last pair may have one tile."""
        odd = [-(-operand.size // SIDE) % 2 for operand in (self.left, self.right)]
        last = [line + SIDE >= operand.size for line, operand in zip(lines, (self.left, self.right), strict=True)]

        def right(left_tiles: int) -> None:
            _either([tirx.Not(last[1])] * odd[1], lambda two: body(left_tiles, 1 + two))

        _either([tirx.Not(last[0])] * odd[0], lambda two: right(1 + two))

    # What follows.

    def finish(self) -> None:
        """Passes on to C the finished sums that wait, if there are any."""
        at, row, column = (T.bind(self.waiting[place]) for place in range(3))

        def tiles_from(line: Expr, operand: _Operand) -> Expr:
            return T.min((operand.size - line + SIDE - 1) // SIDE, 2)

        with T.If(at >= 0), T.Then():
            with T.serial(tiles_from(row, self.left)) as r, T.serial(tiles_from(column, self.right)) as c:
                tile = T.bind(at + (2 * r + c) * TILE)
                line, across = T.bind(row + r * SIDE), T.bind(column + c * SIDE)
                if self.plan.swap:
                    self.finish_across(tile, across, line)
                else:
                    self.finish_along(tile, line, across)

    def finish_along(self, tile: Expr, row: Expr, column: Expr) -> None:
        inside = [column + SIDE <= self.gemm.n] if self.gemm.n % SIDE else []

        def rows(whole: bool) -> None:
            width = None if whole else T.bind(self.gemm.n - column)
            bias = self.bias(column, width)
            with T.serial(T.min(self.gemm.m - row, SIDE) if self.gemm.m % SIDE else SIDE) as i:
                self.put(emit.load(self.sums, tile + i * SIDE, lanes=SIDE), bias, row + i, column, width)

        _either(inside, rows)

    def finish_across(self, tile: Expr, row: Expr, column: Expr) -> None:
        inside = [column + SIDE <= self.gemm.n] if self.gemm.n % SIDE else []
        turned = emit.transpose([emit.let(emit.load(self.sums, tile + i * SIDE, lanes=SIDE)) for i in range(SIDE)])
        waiting = emit.scratch(TILE)
        for i, value in enumerate(turned):
            emit.store(waiting, value, i * SIDE, lanes=SIDE)

        def rows(whole: bool) -> None:
            width = None if whole else T.bind(self.gemm.n - column)
            bias = self.bias(column, width)
            with T.serial(T.min(self.gemm.m - row, SIDE) if self.gemm.m % SIDE else SIDE) as i:
                self.put(emit.load(waiting, i * SIDE, lanes=SIDE), bias, row + i, column, width)

        _either(inside, rows)

    def bias(self, column: Expr, width: Expr | None) -> Expr | None:
        bias = self.buffers.get("bias")
        return None if bias is None else emit.let(emit.load(bias, column, lanes=SIDE, width=width))

    def put(self, value: Expr, bias: Expr | None, row: Expr, column: Expr, width: Expr | None) -> None:
        """Finishes a vector of sums and stores it in C."""
        gemm, at = self.gemm, (*self.lead, row, column)

        def of(name: str) -> Expr:
            return emit.load(self.buffers[name], *at, lanes=SIDE, width=width)

        if bias is not None:
            value = value + bias
        if gemm.addend:
            value = value + of("addend")
        if gemm.activation:
            value = activate(gemm.activation, emit.let(value), emit.bind)
        if gemm.slope_of:
            value = slope(gemm.slope_of, emit.let(value), emit.let(of("saved")))
        emit.store(self.buffers["C"], value, *at, lanes=SIDE, width=width)


_SOON = 3  # steps between the instruction that fetches and the use


def _along(
    operand: _Operand, buffer: Any, at: Expr, line: Expr, k: Expr, whole: bool, seen: Callable[[Expr, Expr], None]
) -> None:
    """Packs a tile whose vectors lie as the operand does: along K on the left, along the lines on the right."""
    with T.serial(SIDE) as i:
        _piece_along(operand, buffer, at + i * SIDE, line, k, i, whole, seen)


def _piece_along(
    operand: _Operand,
    buffer: Any,
    at: Expr,
    line: Expr,
    k: Expr,
    row: Expr,
    whole: bool,
    seen: Callable[[Expr, Expr], None],
) -> None:
    """One row of the tile, to ``at``."""
    if operand.right:
        places = [(line, k + row), (line, k + row + SIDE)]
    else:
        places = [(line + row, k), (line + row, k + SIDE)]
    u, v = (emit.let(operand.load(*place, None if whole else _width(operand, *place))) for place in places)
    if not operand.right:  # whose next values the CPU does not guess
        for line, column in places:
            operand.prefetch(line + PAIR, column)
    if operand.by_lines:
        seen(row, u)
        seen(row + SIDE, v)
    tiles.store_parts(tiles.split(u, v), buffer, at, 2 * TILE)


def _across(
    operand: _Operand, buffer: Any, at: Expr, line: Expr, k: Expr, whole: bool, seen: Callable[[Expr, Expr], None]
) -> None:
    """Packs a tile whose vectors lie across those of the operand, as two squares that are transposed."""
    halves = [emit.scratch(TILE) for _ in range(2)]
    for half, waiting in enumerate(halves):
        rows = []
        for i in range(SIDE):
            row = k + half * SIDE + i
            place = (line, row) if operand.by_lines else (line + i, k + half * SIDE)
            rows.append(emit.let(operand.load(*place, None if whole else _width(operand, *place))))
            if operand.by_lines:
                seen(half * SIDE + i, rows[-1])
        for i, value in enumerate(emit.transpose(rows)):
            emit.store(waiting, value, i * SIDE, lanes=SIDE)
    with T.serial(SIDE) as i:
        u, v = (emit.load(waiting, i * SIDE, lanes=SIDE) for waiting in halves)
        tiles.store_parts(tiles.split(u, v), buffer, at + i * SIDE, 2 * TILE)


def _width(operand: _Operand, line: Expr, k: Expr) -> Expr:
    """How many values there are from a place on in the direction of its vector; none outside of the operand."""
    along, limit = (line, operand.size) if operand.by_lines else (k, operand.depth)
    other, other_limit = (k, operand.depth) if operand.by_lines else (line, operand.size)
    return emit.let(tirx.Select(other < other_limit, limit - along, 0))


def _either(conditions: list[Expr], body: Callable[[bool], None]) -> None:
    """Emits ``body(True)`` where all ``conditions`` hold and ``body(False)`` elsewhere."""
    if not conditions:
        body(True)
        return
    with T.If(tirx.all(*conditions)):
        with T.Then():
            body(True)
        with T.Else():
            body(False)


def _when(conditions: list[Expr], body: Callable[[], None]) -> None:
    if not conditions:
        body()
        return
    with T.If(conditions[0]), T.Then():
        body()
