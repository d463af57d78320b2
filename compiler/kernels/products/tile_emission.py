"""The loops of a matrix product in tile registers, as its plan says."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels import tiles
from bucketmod.compiler.kernels.products.epilogue import activate, slope
from bucketmod.compiler.kernels.products.tile_operands import Operand
from bucketmod.compiler.kernels.products.tile_plan import PAIR, PAIR_WORDS, SUMS, TilePlan, pairs
from bucketmod.compiler.kernels.tiles import PRODUCTS, SIDE, STEP, TILE

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm

Expr = Any


def emit_tile_product(gemm: Gemm, p: TilePlan, buffers: dict[str, Any]) -> None:
    """Emits the loops of the product into the function under construction; ``buffers`` as ``emit_product`` has them."""
    _Emitter(gemm, p, buffers).run()


class _Emitter:
    def __init__(self, gemm: Gemm, p: TilePlan, buffers: dict[str, Any]):
        self.gemm, self.plan, self.buffers = gemm, p, buffers
        self.steps, self.k_blocks = p.steps(gemm), p.blocks_of_k(gemm)
        self.lead: list[Expr] = []
        names = "BA" if p.swap else "AB"
        across = p.transposes(gemm)
        self.left = Operand(gemm, names[0], buffers, False, across[0])
        self.right = Operand(gemm, names[1], buffers, True, across[1])

    def run(self) -> None:
        gemm, p = self.gemm, self.plan
        row_blocks, column_blocks = p.blocks(gemm)
        for operand in (self.left, self.right):
            if operand.across:
                self.turn(operand)
        if p.splits > 1:
            self.sums = emit.scratch(gemm.batch * p.splits * self.matrix_sums)
        with (T.parallel if p.parallel else T.serial)(p.tasks(gemm)) as task:
            # Neighbouring tasks, which one thread runs one after the other, share columns.
            self.row_block = T.bind(task % row_blocks)
            self.column_block = T.bind(task // row_blocks % column_blocks)
            self.part = T.bind(task // (row_blocks * column_blocks))  # of K, in a matrix
            self.choose_matrix(self.part // p.splits)
            with tiles.tile_registers():
                self.task()
        if p.splits > 1:
            self.add_splits()

    def choose_matrix(self, number: Expr) -> None:
        """What follows is for one matrix of the batch."""
        self.lead = [T.bind(number)] if self.gemm.batch > 1 else []
        for operand in (self.left, self.right):
            operand.matrix = self.lead if operand.matrices > 1 else []

    def turn(self, operand: Operand) -> None:
        """Makes ``turned``, pair by pair of tiles."""
        parts = operand.lines // PAIR
        operand.turned = emit.scratch(operand.matrices * operand.lines * operand.steps * STEP)
        with (T.parallel if self.plan.parallel else T.serial)(operand.matrices * parts) as part:
            self.choose_matrix(part // parts)
            with T.serial(2) as tile:
                line = T.bind(part % parts * PAIR + tile * SIDE)
                total = self.start_sums(operand)
                with T.serial(2 * operand.steps) as square:
                    self.turn_square(operand, line, T.bind(square * SIDE), total)
                if total is not None:
                    self.put_sums(total, line)

    def turn_square(self, operand: Operand, line: Expr, k: Expr, total: emit.Register | None) -> None:
        values = []
        for row in range(SIDE):
            place = (line, k + row) if operand.by_lines else (line + row, k)
            values.append(emit.let(operand.load(*place, operand.width(*place))))
            later = k + _SQUARES * SIDE
            operand.ask(*((line, later + row) if operand.by_lines else (line + row, later)))
            self.add_up(total, k + row, values[-1])
        for row, value in enumerate(emit.transpose(values)):
            place = (line, k + row) if operand.right else (line + row, k)
            emit.store(operand.turned, value, operand.turned_place(*place), lanes=SIDE)

    def task(self) -> None:
        p = self.plan
        # One pair of the left operand is multiplied while the next is packed; so are blocks of the right one.
        self.right_words = p.columns * p.depth * PAIR_WORDS
        self.packed_left = tiles.packed(2 * p.depth * PAIR_WORDS)
        self.packed_right = tiles.packed(self.right_words * min(2, self.k_blocks))
        if p.splits == 1:
            self.sums = emit.scratch(SUMS * (p.rows * p.columns if self.k_blocks > 1 else 2))
        first_step = T.bind(self.part % p.splits * p.steps_of_task(self.gemm))
        self.end = T.bind(T.min(first_step + p.steps_of_task(self.gemm), self.steps))
        self.waiting = T.alloc_buffer((3,), "int32", layout=None)  # finished sums: their place, and their lines
        T.buffer_store(self.waiting, -1, [0])
        self.first_row, self.first_column = T.bind(self.row_block * p.rows), T.bind(self.column_block * p.columns)
        self.rows = T.bind(T.min(pairs(self.left.size) - self.first_row, p.rows))
        self.columns = T.bind(T.min(pairs(self.right.size) - self.first_column, p.columns))
        self.clear_sums()
        with T.serial(self.k_blocks + 1) as block:
            self.k_block = T.bind(block - 1)
            self.first_step = T.bind(first_step + self.k_block * p.depth)
            even = self.steps % (p.splits * p.depth) == 0
            self.depth = p.depth if even else T.bind(T.max(T.min(self.end - self.first_step, p.depth), 0))
            self.right_half = emit.let((self.k_block & 1) * self.right_words) if self.k_blocks > 1 else 0
            self.start_ahead()
            with T.If(self.k_block >= 0), T.Then():
                self.multiply_rows()
            with T.serial(T.max(self.ahead_pieces - self.progress[0], 0)):
                self.pack_ahead()

    # Packing, in pieces so short that the CPU does them beside products. A piece is a row of a packed tile.

    def start_ahead(self) -> None:
        """Begins to pack the right operand for the next block of K."""
        p = self.plan
        self.ahead_tiles = emit.let(2 * self.columns)
        following = self.first_step + p.depth
        steps = T.max(T.min(self.end - following, p.depth), 0)
        self.ahead_pieces = emit.let(steps * self.ahead_tiles * SIDE)
        self.progress = T.alloc_buffer((3,), "int32", layout=None)  # pieces; the tile and the step of the next
        for place in range(3):
            T.buffer_store(self.progress, 0, [place])

    def pack_ahead(self) -> None:
        """The next piece, in the order in which the operand lies in memory."""
        p, operand = self.plan, self.right
        # In registers: TVM takes long over variables that it sees through.
        done, tile, step = (emit.let(self.progress[place]) for place in range(3))
        row = emit.let(done & (SIDE - 1))
        line = emit.let(self.first_column * PAIR + tile * SIDE)
        k = emit.let((self.first_step + p.depth + step) * STEP + row)
        place = (tile >> 1) * (p.depth * PAIR_WORDS) + step * PAIR_WORDS + (tile & 1) * TILE + row * SIDE
        half = self.right_words - self.right_half if self.k_blocks > 1 else 0
        for later in (0, SIDE):  # rows lie so far apart that the CPU does not guess the next ones
            operand.fetch(line, k + STEP + later)
        u, v = operand.vector(line, k), operand.vector(line, k + SIDE)
        tiles.store_parts(tiles.split(u, v), self.packed_right, emit.let(half + place), 2 * TILE)
        if operand.sums:
            self.add_piece(line, k, u, v)
        T.buffer_store(self.progress, done + 1, [0])
        with T.If(row == SIDE - 1), T.Then():
            more = emit.let(T.Cast("int32", tile + 1 < self.ahead_tiles))
            T.buffer_store(self.progress, (tile + 1) * more, [1])
            T.buffer_store(self.progress, step + 1 - more, [2])

    def pack_piece(self, line: Expr, half: Expr, number: Expr) -> None:
        """A piece of the pair of the left operand that begins at ``line``."""
        operand = self.left
        row, tile = emit.let(number & (SIDE - 1)), emit.let(number >> (SIDE.bit_length() - 1))
        step, side = emit.let(tile >> 1), emit.let(tile & 1)
        place = half * (self.plan.depth * PAIR_WORDS) + step * PAIR_WORDS + side * TILE + row * SIDE
        line, k = emit.let(line + side * SIDE + row), emit.let((self.first_step + step) * STEP)
        for far in (0, SIDE):
            operand.fetch(line + PAIR, k + far)
        u, v = operand.vector(line, k), operand.vector(line, k + SIDE)
        tiles.store_parts(tiles.split(u, v), self.packed_left, emit.let(place), 2 * TILE)

    # Column sums, of an A that is turned, or else on the right and packed by the first of the tasks that share it.

    def start_sums(self, operand: Operand) -> emit.Register | None:
        if not operand.sums:
            return None
        total = emit.Register(SIDE)
        total.value = emit.splat(0.0, SIDE)
        return total

    def clear_sums(self) -> None:
        if not self.right.sums:
            return
        with T.If(self.row_block == 0), T.Then(), T.serial(2 * self.columns) as tile:
            total = self.start_sums(self.right)
            assert total is not None
            self.put_sums(total, self.first_column * PAIR + tile * SIDE)

    def add_up(self, total: emit.Register | None, k: Expr, value: Expr) -> None:
        """Adds the values of all lines at ``k``."""
        if total is None:
            return
        weights = self.buffers.get("weights")
        if weights is not None:
            value = value * emit.splat(weights[T.min(k, self.gemm.k - 1)], SIDE)
        total.value = total.value + value

    def add_piece(self, line: Expr, k: Expr, u: Expr, v: Expr) -> None:
        with T.If(self.row_block == 0), T.Then():
            total = emit.Register(SIDE)
            width = T.bind(self.right.size - line) if self.right.size % SIDE else None
            total.value = emit.load(self.buffers["sums"], line, lanes=SIDE, width=width)
            self.add_up(total, k, u)
            self.add_up(total, k + SIDE, v)
            self.put_sums(total, line)

    def put_sums(self, total: emit.Register, line: Expr) -> None:
        width = T.bind(self.gemm.m - line) if self.gemm.m % PAIR else None
        emit.store(self.buffers["sums"], total.value, line, lanes=SIDE, width=width)

    # Products.

    def multiply_rows(self) -> None:
        """Pairs of tiles of the left operand, each with all columns of the task, while the next pair is packed."""
        p, right, rows, columns = self.plan, self.right, self.rows, self.columns
        first_row, first_column = self.first_row, self.first_column
        ahead = -(-2 * SIDE // (PRODUCTS * p.rows)) if self.k_blocks > 1 else 0
        at_once = -(-2 * SIDE // (PRODUCTS * p.columns))  # pieces after each product
        each = T.bind(self.depth * (2 * SIDE))
        with T.serial(rows + 1) as count:
            row = T.bind(count - 1)
            following = T.bind((first_row + count) * PAIR)
            pieces = T.bind(tirx.Select(count < rows, each, 0))
            # After the very last product comes a turn that only finishes its sums.
            last = tirx.all(row == rows - 1, self.k_block == self.k_blocks - 1)
            more = T.bind(T.Cast("int32", last)) if p.splits == 1 else 0
            with T.If(row >= 0), T.Then(), T.serial(columns + more) as column:
                done = T.bind(column * (self.depth * PRODUCTS * at_once))
                soon = T.bind(self.right_half + (column * p.depth + _SOON) * PAIR_WORDS)

                def between(step: Expr, beat: int) -> None:
                    for line in range(0, TILE, emit.LINE):  # the right pair of the next product
                        emit.prefetch(self.packed_right, soon + step * PAIR_WORDS + beat * TILE + line, first=True)
                    if (beat + 1) % _BEATS:
                        return
                    first = emit.let(done + step * (PRODUCTS * at_once) + (beat + 1 - _BEATS) * at_once)
                    with T.serial(T.max(T.min(pieces - first, _BEATS * at_once), 0)) as i:
                        self.pack_piece(following, count & 1, emit.let(first + i))
                    if ahead:
                        with T.serial(T.min(self.ahead_pieces - self.progress[0], _BEATS * ahead)):
                            self.pack_ahead()

                lines = T.bind((first_row + row) * PAIR), T.bind((first_column + column) * PAIR)
                self.product((row, column), lines, between, T.bind(column < columns))
            wide = T.min(columns, -(-right.size // SIDE) // 2 - first_column)  # a pair of one tile is over too soon
            packed = T.bind(tirx.Select(row >= 0, wide * (self.depth * PRODUCTS * at_once), 0))
            with T.serial(T.max(pieces - packed, 0)) as i:
                self.pack_piece(following, count & 1, T.bind(packed + i))

    def product(
        self, pair: tuple[Expr, Expr], lines: tuple[Expr, Expr], between: Callable[[Expr, int], None], there: Expr
    ) -> None:
        """The pair numbered (row, column) of the task, which begins at ``lines`` of the two operands, if it is there;
        and what follows the pair before."""
        p, (row, column) = self.plan, pair
        at = emit.let(self.sums_at(row, column))

        def start(fresh: bool) -> None:
            for register in range(4):
                if fresh:
                    tiles.zero(register)
                else:
                    tiles.load(register, self.sums, at + register * TILE)

        left_at = T.bind((row & 1) * (p.depth * PAIR_WORDS))
        right_at = T.bind(self.right_half + column * (p.depth * PAIR_WORDS))

        def multiply(left_tiles: int, right_tiles: int) -> None:
            left = tiles.Panel(self.packed_left, left_at, left_tiles, 2)
            right = tiles.Panel(self.packed_right, right_at, right_tiles, 2)
            tiles.multiply(left, right, self.depth, between=between if left_tiles + right_tiles == 4 else None)

        with T.If(there), T.Then():
            _either([self.k_block == 0] * (self.k_blocks > 1), start)
            if self.k_blocks > 1:  # the next sums
                with T.serial(SUMS // emit.LINE) as line:
                    emit.prefetch(self.sums, at + SUMS + line * emit.LINE, first=True)
            self.each_size(lines, multiply)
        if p.splits == 1:
            self.finish()  # the sums before these, while the last products run
        with T.If(there), T.Then():
            for register in range(4):
                tiles.store(register, self.sums, at + register * TILE)
            for place, value in enumerate((at, *lines)):
                wait = tirx.Select(self.k_block == self.k_blocks - 1, value, -1) if self.k_blocks > 1 else value
                T.buffer_store(self.waiting, wait if p.splits == 1 else -1, [place])

    @property
    def matrix_sums(self) -> int:
        """Sums of all pairs of one matrix, in tasks that share K."""
        return pairs(self.left.size) * pairs(self.right.size) * SUMS

    def sums_at(self, row: Expr, column: Expr) -> Expr:
        """The place of the sums of a pair of the task."""
        p = self.plan
        if p.splits > 1:
            pair = (self.first_row + row) * pairs(self.right.size) + self.first_column + column
            return self.part * self.matrix_sums + pair * SUMS
        number = row * p.columns + column
        return (number if self.k_blocks > 1 else number & 1) * SUMS

    def add_splits(self) -> None:
        """Adds up what the tasks that share K come to."""
        p, columns = self.plan, pairs(self.right.size)
        each = pairs(self.left.size) * columns
        with (T.parallel if p.parallel else T.serial)(self.gemm.batch * each) as number:
            self.choose_matrix(number // each)
            pair = T.bind(number % each)
            at = T.bind(number // each * (p.splits * self.matrix_sums) + pair * SUMS)
            with T.serial(SUMS // SIDE) as i:
                parts = [at + part * self.matrix_sums + i * SIDE for part in range(p.splits)]
                total = functools.reduce(operator.add, (emit.load(self.sums, place, lanes=SIDE) for place in parts))
                emit.store(self.sums, total, at + i * SIDE, lanes=SIDE)
            self.finish_pair(at, T.bind(pair // columns * PAIR), T.bind(pair % columns * PAIR))

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
        with T.If(at >= 0), T.Then():
            self.finish_pair(at, row, column)

    def finish_pair(self, at: Expr, row: Expr, column: Expr) -> None:
        def tiles_from(line: Expr, operand: Operand) -> Expr:
            return T.min((operand.size - line + SIDE - 1) // SIDE, 2)

        with T.serial(tiles_from(row, self.left)) as r, T.serial(tiles_from(column, self.right)) as c:
            tile = T.bind(at + (2 * r + c) * TILE)
            line, across = T.bind(row + r * SIDE), T.bind(column + c * SIDE)
            if self.plan.swap:
                self.finish_rows(0, self.turned_sums(tile), across, line)
            else:
                self.finish_rows(tile, self.sums, line, across)

    def finish_rows(self, tile: Expr, waiting: Any, row: Expr, column: Expr) -> None:
        """A tile of sums, rows of C one after the other in ``waiting``."""
        width = T.bind(self.gemm.n - column) if self.gemm.n % SIDE else None
        bias = self.bias(column, width)
        with T.serial(T.min(self.gemm.m - row, SIDE) if self.gemm.m % SIDE else SIDE) as i:
            self.put(emit.load(waiting, tile + i * SIDE, lanes=SIDE), bias, row + i, column, width)

    def turned_sums(self, tile: Expr) -> Any:
        waiting = emit.scratch(TILE)
        for i, value in enumerate(emit.transpose([self.sum_row(tile, i) for i in range(SIDE)])):
            emit.store(waiting, value, i * SIDE, lanes=SIDE)
        return waiting

    def sum_row(self, tile: Expr, row: int) -> Expr:
        return emit.let(emit.load(self.sums, tile + row * SIDE, lanes=SIDE))

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


# Products of parts between which pieces are packed: so few that the CPU looks ahead over them, so many that there is
# little code.
_BEATS = 6
_SQUARES = 2  # of an operand that is turned, between the instruction that fetches and the use
_SOON = 3  # steps between the instruction that fetches and the use


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
