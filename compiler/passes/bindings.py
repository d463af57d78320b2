"""Values that long expressions name inside themselves (``Let``) move into registers of their own.

Elementary functions written out as polynomials name their intermediate results. TVM's analysis puts the value of a name
in place of each use, which grows exponentially when one function's result is another's argument; through what is loaded
from a buffer it does not look. LLVM turns the buffers back into registers.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

from bucketmod.compiler.passes.loop_nest import Expr, Stmt, substitute
from bucketmod.compiler.passes.vector_loops import sequence

MOST_NAMES = 10  # in one expression: about one function, whose analysis takes milliseconds


def hold_names(body: Stmt) -> Stmt:
    """``body`` with the names of long expressions held in buffers, as wide as the vectorised loop around them."""

    def loop(node: Stmt, mutator: Any) -> Stmt:
        if node.kind == tirx.ForKind.VECTORIZED and isinstance(node.body, tirx.BufferStore):
            return _held(node.body, node)
        return mutator.default_mutate(node)

    def store(node: Stmt, _mutator: Any) -> Stmt:
        return _held(node, None)

    def flat(node: Stmt, mutator: Any) -> Stmt:
        return sequence([mutator.mutate(part) for part in node.seq])

    return tvm_ffi.structural_mutate(body, [(tirx.For, loop), (tirx.BufferStore, store), (tirx.SeqStmt, flat)])


def _held(store: Stmt, loop: Stmt | None) -> Stmt:
    """``store``, in the vectorised ``loop`` if there is one, after the values that it names."""
    names, value = _hoist(store.value)
    if len(names) <= MOST_NAMES:
        return store if loop is None else loop
    width = 1 if loop is None else int(loop.extent.value)
    lane = tirx.IntImm("int32", 0) if loop is None else loop.loop_var

    def vector(statement: Stmt) -> Stmt:
        return statement if loop is None else tirx.For(lane, loop.min, loop.extent, loop.kind, statement)

    parts: list[Stmt] = []
    held: dict[Expr, Expr] = {}
    for variable, named in names:
        buffer = tirx.decl_buffer((width,), str(variable.ty.dtype), variable.name)
        parts += [tirx.AllocBuffer(buffer), vector(tirx.BufferStore(buffer, substitute(named, held), [lane]))]
        held[variable] = buffer[lane]
    return sequence(parts, vector(tirx.BufferStore(store.buffer, substitute(value, held), store.indices)))


def _hoist(value: Expr) -> tuple[list[tuple[Expr, Expr]], Expr]:
    """Names with their values, each before its uses, and what is left of ``value``.

    Names inside of the branches of a condition stay there: what is not chosen may not be computed.
    """
    names: list[tuple[Expr, Expr]] = []

    def let(node: Expr, mutator: Any) -> Expr:
        named = mutator.mutate(node.value)
        names.append((node.var, named))
        return mutator.mutate(node.body)

    def call(node: Expr, mutator: Any) -> Expr:
        if isinstance(node.op, ir.Op) and node.op.name == "tirx.if_then_else":
            return node
        return mutator.default_mutate(node)

    rest = tvm_ffi.structural_mutate(value, [(tirx.Let, let), (ir.Call, call)])
    return names, rest
