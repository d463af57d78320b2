"""Updates over flat float32 arrays of any length, in place; one build serves every parameter.

The formulas are in :mod:`bucketmod.compiler.update_formulas`; this file makes a loop over an array's chunks of each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tvm import IRModule, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission, streams
from bucketmod.compiler.kernels.kernel import TUNED
from bucketmod.compiler.update_formulas import UPDATES, Update
from bucketmod.runtime.gradient_rows import COUNT, LIST
from bucketmod.runtime.update import BY_ROWS, CHUNK

if TYPE_CHECKING:
    from bucketmod.compiler.target import CpuFeatures

Expr = Any


def update_module(cpu: CpuFeatures) -> IRModule:
    """A function for each update: flat arrays (n,), n known at run time, then for each sum an array with a place for
    every chunk, then float32 scalars. Arrays must not overlap. A negative ``clip_gradient`` clips nothing.

    Those with ``BY_ROWS`` behind their name take the table of the gradient's rows in place of the sums.
    """
    functions = {name: _build(update, cpu) for name, update in UPDATES.items()}
    by_rows = {name + BY_ROWS: _build_by_rows(update, cpu) for name, update in UPDATES.items() if update.by_rows}
    return IRModule(functions | by_rows)


def _build(update: Update, cpu: CpuFeatures) -> Any:
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        _name(update.name)
        n, parts = tirx.Var("n", "int64"), tirx.Var("parts", "int64")
        arrays = {name: T.arg(name, T.buffer((n,), "float32", layout=None)) for name in update.arrays}
        sums = [T.arg(name, T.buffer((parts,), "float32", layout=None)) for name in update.sums]
        loop = _Loop(update, arrays, sums, _scalars(update), n, cpu.lanes)
        limit = int(streams.WORTH_THREADS_NS / ((2 * len(arrays) - 1) * streams.NS_PER_FLOAT))
        tasks = (n + CHUNK - 1) // CHUNK
        with T.If(n > limit):
            with T.Then(), T.parallel(tasks) as task:
                loop.chunk(task)
            with T.Else(), T.serial(tasks) as task:
                loop.chunk(task)
    return ib.get()


def _build_by_rows(update: Update, cpu: CpuFeatures) -> Any:
    """The same update, without reading the rows of the gradient that are zero, where the table knows them."""
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        _name(update.name + BY_ROWS)
        n, size = tirx.Var("n", "int64"), tirx.Var("size", "int64")
        arrays = {name: T.arg(name, T.buffer((n,), "float32", layout=None)) for name in update.arrays}
        table = T.arg("rows", T.buffer((size,), "int32", layout=None))
        scalars = _scalars(update)
        walk = _RowWalk(_Loop(update, arrays, [], scalars, n, cpu.lanes), table, size)
        if not update.rests_without:
            walk.all_rows()
        else:
            with T.If(tirx.any(table[COUNT] < 0, scalars[update.rests_without] != 0.0)):
                with T.Then():
                    walk.whole_arrays()
                with T.Else():
                    walk.listed_rows()
    return ib.get()


def _name(name: str) -> None:
    T.func_name(name)
    T.func_attr({"global_symbol": name, "tirx.noalias": True, TUNED: True})


def _scalars(update: Update) -> dict[str, Expr]:
    scalars = {name: T.arg(name, tirx.Var(name, "float32")) for name in update.scalars}
    if "clip_gradient" in scalars:
        given = scalars["clip_gradient"]
        scalars["bound"] = T.bind(tirx.Select(given >= 0.0, given, T.infinity("float32")))
    return scalars


class _RowWalk:
    """Emits the work of an update by the rows of the gradient, as ``table``, of ``size`` values, tells them."""

    def __init__(self, loop: _Loop, table: Expr, size: Expr) -> None:
        self.loop, self.table = loop, table
        # Kept in memory, as is the first row of a block: the simplifier takes half a second for divisions of divisions.
        self.rows = emission.let((size - LIST) // 2)
        self.width = emission.let(loop.n // self.rows)
        self.block = emission.let(T.max(CHUNK // self.width, T.int64(1)))

    def whole_arrays(self) -> None:
        with T.parallel((self.loop.n + CHUNK - 1) // CHUNK) as task:
            self.loop.chunk(task)

    def listed_rows(self) -> None:
        with self._blocks(tirx.Cast("int64", self.table[COUNT])) as place:
            self.loop.row(tirx.Cast("int64", self.table[LIST + place]) * self.width, self.width)

    def all_rows(self) -> None:
        """All rows change; those of the gradient that are zero are not read."""
        with self._blocks(self.rows) as row:
            with T.If(tirx.any(self.table[COUNT] < 0, self.table[LIST + self.rows + row] != 0)):
                with T.Then():
                    self.loop.row(row * self.width, self.width)
                with T.Else():
                    self.loop.row(row * self.width, self.width, grad=0.0)

    @contextlib.contextmanager
    def _blocks(self, extent: Expr) -> Iterator[Expr]:
        """A loop from 0 to ``extent``, over all threads."""
        with T.parallel((extent + self.block - 1) // self.block) as task:
            first = emission.let(task * self.block)
            with T.serial(T.min(extent - first, self.block)) as place:
                yield first + place


class _Loop:
    """Emits the work on one chunk of the arrays, or on one row."""

    def __init__(
        self, update: Update, arrays: dict[str, Expr], sums: Sequence[Expr], scalars: dict[str, Expr], n: Expr,
        lanes: int,
    ) -> None:  # fmt: skip
        self.update, self.arrays, self.sums, self.scalars = update, arrays, sums, scalars
        self.n, self.lanes = n, lanes

    def chunk(self, task: Expr) -> None:
        """How values are split into chunks is the same for any number of threads, and so are the sums."""
        first = T.bind(task * CHUNK)
        count = T.bind(T.min(self.n - first, CHUNK))
        wide, rest = self.row(first, count)
        for buffer, vectors, scalar in zip(self.sums, wide.registers, rest.registers, strict=True):
            total = streams.combine([vectors], lambda a, b: a + b)
            T.buffer_store(buffer, total + scalar.buffer[0], [task])

    def row(self, first: Expr, count: Expr, **known: float) -> tuple[_Sums, _Sums]:
        """``count`` values from ``first`` on. ``known``: arrays that hold one number there, and are not read."""
        wide, rest = (_Sums(len(self.sums), width) for width in (self.lanes, 1))
        with T.serial(count // self.lanes) as vector:
            self.change(first + vector * self.lanes, self.lanes, wide, known)
        with T.serial(count % self.lanes) as one:
            self.change(first + count // self.lanes * self.lanes + one, 1, rest, known)
        return wide, rest

    def change(self, first: Expr, width: int, sums: _Sums, known: Mapping[str, float]) -> None:
        maths = _TirMaths(width)
        index = first if width == 1 else T.ramp(first, 1, width)
        values = SimpleNamespace(
            **{
                name: maths.number(known[name]) if name in known else maths.keep(array[index])
                for name, array in self.arrays.items()
            }
        )
        scalars = SimpleNamespace(**{name: maths.spread(value) for name, value in self.scalars.items()})
        found = {name: maths.keep(value) for name, value in self.update.step(maths, values, scalars).items()}
        for name, value in found.items():
            if name in self.arrays:
                T.buffer_store(self.arrays[name], value, [index])
        for name, register in zip(self.update.sums, sums.registers, strict=True):
            place = 0 if width == 1 else T.ramp(0, 1, width)
            T.buffer_store(register.buffer, register.buffer[place] + found[name], [place])


class _Sums:
    """Zeroed accumulators of ``lanes`` values."""

    def __init__(self, count: int, lanes: int) -> None:
        self.registers = [emission.Register(lanes) for _ in range(count)]
        maths = _TirMaths(lanes)
        for register in self.registers:
            T.buffer_store(register.buffer, maths.number(0.0), [0 if lanes == 1 else T.ramp(0, 1, lanes)])


class _TirMaths:
    """Formulas as expressions on vectors of ``lanes`` float32 values."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def spread(self, value: Expr) -> Expr:
        return value if self.lanes == 1 else tirx.Broadcast(value, self.lanes)

    def number(self, value: float) -> Expr:
        return self.spread(tirx.FloatImm("float32", value))

    def keep(self, value: Expr) -> Expr:
        """In a register, not in a variable: TVM's simplifier would put what it holds back in place of it."""
        memory = T.alloc_buffer((self.lanes,), "float32", layout=None)
        place = 0 if self.lanes == 1 else T.ramp(0, 1, self.lanes)
        T.buffer_store(memory, value, [place])
        return memory[place]

    def select(self, condition: Expr, then: Expr, otherwise: Expr) -> Expr:
        return tirx.Select(condition, then, otherwise)

    def sqrt(self, value: Expr) -> Expr:
        return tirx.sqrt(value)
