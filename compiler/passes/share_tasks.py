"""Parallel loops whose tasks go to whichever thread is free: a thread that is held up keeps no more than one waiting.

TVM's parallel loops give each thread its part, and all wait for the slowest. Here each thread begins with the same
part, so that it meets the data it met before, and then takes what others have not begun. A task is taken by setting its
bit of a word in memory. The body of the loop is there once.

A loop still ends only when every thread was there: one that has no core, and nothing to do, is waited for. To let the
first thread sleep meanwhile, so that its core takes the other thread, made small loops fifty times as slow: both
threads then stay on that core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx

from bucketmod.compiler.passes.vector_loops import TASKS

Expr = Any
Stmt = Any

_BITS = 64
# Loops of more tasks than bits hand out several at once, in this many shares: a bit costs up to 0.1 us, for the word
# has to come from another core.
_SHARES = TASKS
_REGION = "pragma_parallel_launch_point"


def share_tasks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func``, of flat loops, with each parallel loop shared so.

    Those inside of a parallel region stay, and those over a number of tasks that is known at run time only: updates,
    which compile in four fifths of the time without.
    """

    def region(node: Stmt, mutator: Any) -> Stmt:
        return node if node.attr_key == _REGION else mutator.default_mutate(node)

    def loop(node: Stmt, mutator: Any) -> Stmt:
        if node.kind != tirx.ForKind.PARALLEL:
            return mutator.default_mutate(node)
        several = isinstance(node.extent, tirx.IntImm) and int(node.extent.value) > 1
        return _shared(node) if several else node

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(tirx.AttrStmt, region), (tirx.For, loop)]))


def _shared(loop: Stmt) -> Stmt:
    """``loop`` in shares of equally many tasks, but for the last."""
    extent, dtype = int(loop.extent.value), str(loop.extent.ty.dtype)
    size = 1 if extent <= _BITS else -(-extent // _SHARES)
    return _on_all_threads(-(-extent // size), _share_of(loop, tirx.IntImm(dtype, size)))


def _share_of(loop: Stmt, each: Expr) -> Callable[[Expr], Stmt]:
    """Makes, from the number of a share, the tasks of ``loop`` in it: ``each``, or what is left."""
    dtype = str(loop.extent.ty.dtype)
    first, task = tirx.Var("first", dtype), tirx.Var("task", dtype)
    count = tirx.max(tirx.min(each, loop.extent - first), tirx.IntImm(dtype, 0))
    body = tirx.SeqStmt([tirx.Bind(loop.loop_var, first + task), loop.body])

    def share(number: Expr) -> Stmt:
        start = tirx.Bind(first, tirx.Cast(dtype, number) * each)
        return tirx.SeqStmt([start, tirx.For(task, tirx.IntImm(dtype, 0), count, tirx.ForKind.SERIAL, body)])

    return share


def _on_all_threads(shares: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """A parallel region in which each of ``shares`` runs once, as ``body(share)``."""
    taken = tirx.decl_buffer((1,), "int64", "taken", data_alignment=64)
    turn, share, start = (tirx.Var(name, "int32") for name in ("turn", "share", "start"))
    at = start + turn
    steps = [tirx.Bind(share, tirx.Select(at >= shares, at - shares, at)), _once(taken, share, body(share))]
    walk = tirx.For(turn, _number(0), _number(shares), tirx.ForKind.SERIAL, tirx.SeqStmt(steps))
    region = tirx.SeqStmt([*_bind_own_part(start, shares), walk])
    return tirx.SeqStmt([
        tirx.AllocBuffer(taken),
        tirx.BufferStore(taken, tirx.IntImm("int64", 0), [_number(0)]),
        tirx.AttrStmt(_number(0), _REGION, _number(1), region),
    ])  # fmt: skip


def _bind_own_part(start: Expr, shares: int) -> list[Stmt]:
    """Binds ``start`` to the first share of the part that TVM would give this thread, or to 0 where that is empty.

    TIR cannot name the thread, but deals out loops. LLVM turns this one into a division.
    """
    last, count = (tirx.decl_buffer((1,), "int32", name) for name in ("last", "count"))
    index, zero = tirx.Var("index", "int32"), _number(0)
    step = [tirx.BufferStore(last, index, [zero]), tirx.BufferStore(count, count[0] + 1, [zero])]
    return [
        tirx.AllocBuffer(last),
        tirx.AllocBuffer(count),
        tirx.BufferStore(last, _number(-1), [zero]),
        tirx.BufferStore(count, zero, [zero]),
        tirx.For(index, zero, _number(shares), tirx.ForKind.PARALLEL, tirx.SeqStmt(step)),
        tirx.Bind(start, last[0] - count[0] + 1),
    ]


def _once(taken: Expr, share: Expr, body: Stmt) -> Stmt:
    """``body``, unless a thread has taken ``share`` before."""
    bit = tirx.Cast("int64", share)
    one = tirx.IntImm("int64", 1)
    # A look first: setting a bit, even one that is set, takes the word from the other cores.
    clear = (taken[0] >> bit & one) == tirx.IntImm("int64", 0)
    before = tirx.call_llvm_intrin("int8", "llvm.x86.atomic.bts.rm.i64", tirx.address_of(taken[0]), bit)
    return tirx.IfThenElse(clear, tirx.IfThenElse(before == tirx.IntImm("int8", 0), body, None), None)


def _number(value: int) -> Expr:
    return tirx.IntImm("int32", value)
