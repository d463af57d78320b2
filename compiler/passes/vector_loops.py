"""The loops that CPU schedules are made of: vectors along memory, and long loops split over threads.

How loops are split is decided by their extents and by the CPU alone, never by the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from bucketmod.compiler.kernels.emission import pieces
from bucketmod.compiler.kernels.streams import NS_PER_EXP, NS_PER_FLOAT, WORTH_THREADS_NS
from bucketmod.compiler.passes.loop_nest import Expr, Loop, Nest, Stmt, substitute
from bucketmod.compiler.target import CpuFeatures

_NS_PER_STEP_APART = 1.0  # a float32 at a strided or indirect address
# Tasks of a parallel loop: divisible among 2, 3, 4, 6, 8, 12, 16, 24 and 48 threads.
TASKS = 48
FEW_TASKS = 8  # with fewer, a long loop inside is split instead

Body = Callable[[Expr], Stmt]


def sequence(*parts: Stmt | Sequence[Stmt]) -> Stmt:
    """Statements, or lists of them, one after the other, in one scope."""
    flat: list[Stmt] = []

    def add(part: Stmt | Sequence[Stmt]) -> None:
        if isinstance(part, tirx.SeqStmt):
            part = list(part.seq)
        if isinstance(part, (list, tuple)):
            for inner in part:
                add(inner)
        else:
            flat.append(part)

    add(parts)
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


@dataclass(frozen=True)
class LoopMaker:
    """Makes loops for ``cpu`` whose variables have the integer type ``dtype``."""

    cpu: CpuFeatures
    dtype: str

    @property
    def lanes(self) -> int:
        return self.cpu.lanes

    def number(self, value: int) -> Expr:
        return tirx.IntImm(self.dtype, value)

    def loop(self, extent: Expr, body: Body, kind: tirx.ForKind = tirx.ForKind.SERIAL, name: str = "i") -> Stmt:
        """A loop from 0; ``body`` is given the loop variable. A serial loop of one iteration is its body."""
        if isinstance(extent, int):
            if extent == 1 and kind == tirx.ForKind.SERIAL:
                return body(self.number(0))
            extent = self.number(extent)
        var = tirx.Var(name, self.dtype)
        return tirx.For(var, self.number(0), extent, kind, body(var))

    def vectorized(self, width: int, body: Body) -> Stmt:
        """``width`` neighbours at once; ``width`` is at most the width of a register."""
        if width == 1:
            return body(self.number(0))
        return self.loop(width, body, tirx.ForKind.VECTORIZED, "lane")

    def along(self, begin: int, end: int, body: Body) -> list[Stmt]:
        """``body`` at every index in [begin, end), as vectors and then as narrower ones for the rest."""
        lanes = self.lanes
        vectors, rest = divmod(end - begin, lanes)
        found = []
        if vectors:
            found.append(
                self.loop(
                    vectors, lambda k: self.vectorized(lanes, lambda v: body(k * lanes + v + begin)), name="vector"
                )
            )
        for start, width in pieces(rest, lanes):
            found.append(self.vectorized(width, _shifted(body, begin + vectors * lanes + start)))
        return found

    def chunks(self, begin: int, end: int, body: Body) -> list[Stmt]:
        """As ``along``, with the vectors split over threads."""
        lanes = self.lanes
        vectors = (end - begin) // lanes
        per_task = max(1, -(-vectors // TASKS))
        tasks = -(-vectors // per_task)

        def task(t: Expr) -> Stmt:
            count = per_task if vectors % per_task == 0 else tirx.min(self.number(per_task), vectors - t * per_task)
            return self.loop(
                count,
                lambda k: self.vectorized(lanes, lambda v: body((t * per_task + k) * lanes + v + begin)),
                name="vector",
            )

        rest = self.along(begin + vectors * lanes, end, body)
        return [self.loop(tasks, task, tirx.ForKind.PARALLEL, "task"), *rest] if tasks else rest

    def nested(self, loops: Sequence[Loop], body: Callable[[dict[Expr, Expr]], Stmt], parallel: bool) -> Stmt:
        """``body`` inside ``loops``; the first of them that make enough tasks become one parallel loop."""
        split, tasks = 0, 1
        while parallel and split < len(loops) and tasks < TASKS:
            tasks *= loops[split].extent
            split += 1

        def serial(values: dict[Expr, Expr], rest: Sequence[Loop]) -> Stmt:
            if not rest:
                return body(values)
            name = rest[0].var.name
            return self.loop(rest[0].extent, lambda i: serial({**values, rest[0].var: i}, rest[1:]), name=name)

        def task(index: Expr) -> Stmt:
            values: dict[Expr, Expr] = {}
            for outer in reversed(loops[1:split]):
                values[outer.var] = index % outer.extent
                index = index // outer.extent
            if split:
                values[loops[0].var] = index
            return serial(values, loops[split:])

        if tasks == 1:
            return serial({}, loops)
        return self.loop(tasks, task, tirx.ForKind.PARALLEL, "task")

    def plain(self, nest: Nest) -> Stmt:
        """``nest`` as it stands, its outer loops parallel where that pays."""

        def point(values: dict[Expr, Expr]) -> Stmt:
            body = serial_loops(nest.reduction, substitute(nest.body, values))
            return body if nest.init is None else sequence(substitute(nest.init, values), body)

        return self.nested(nest.spatial, point, worth_threads(nest))


def _shifted(body: Body, first: int) -> Body:
    return lambda v: body(v + first)


def serial_loops(loops: Sequence[Loop], body: Stmt) -> Stmt:
    """``body`` inside ``loops``, which keep their variables."""
    for inner in reversed(loops):
        dtype = inner.var.ty.dtype
        extent = tirx.IntImm(dtype, inner.extent)
        body = tirx.For(inner.var, tirx.IntImm(dtype, 0), extent, tirx.ForKind.SERIAL, body)
    return body


def worth_threads(nest: Nest) -> bool:
    """Whether ``nest`` takes long enough on one thread for several to be faster."""
    inner = nest.loops[-1].var if nest.loops else None
    cost = len(find_calls(nest.body)) * NS_PER_EXP
    for access in nest.accesses:
        cost += NS_PER_FLOAT if inner is None or access.steps[inner] in (0, 1) else _NS_PER_STEP_APART
    return cost * nest.points > WORTH_THREADS_NS


def find_calls(node: Any) -> list[Expr]:
    """Calls of elementary functions in ``node``."""
    found: list[Expr] = []
    tvm_ffi.structural_walk(node, (ir.Call, found.append), order="post")
    cheap = {"tirx.if_then_else", "tirx.reinterpret", "tirx.sqrt", "tirx.fabs", "tirx.likely"}
    return [call for call in found if isinstance(call.op, ir.Op) and call.op.name not in cheap]
