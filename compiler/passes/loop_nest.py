"""Loop nests read off schedulable blocks: which loops there are, and how each buffer is walked by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx

Expr = Any  # a tirx expression; TVM carries no type annotations
Stmt = Any


class UnsupportedNestError(Exception):
    """The statement is not a perfect nest of loops of known extents around one block."""


@dataclass(frozen=True)
class Loop:
    """A loop from 0 to ``extent``."""

    var: Expr
    extent: int


@dataclass(frozen=True)
class Access:
    """One load or store: its element offset, and how far each loop's step moves it (None: not by a constant)."""

    buffer: Expr
    offset: Expr
    steps: Mapping[Expr, int | None]
    is_store: bool


@dataclass(frozen=True)
class Nest:
    """A block in its loops: ``init`` runs before the reduction loops of each point of the spatial loops."""

    spatial: tuple[Loop, ...]
    reduction: tuple[Loop, ...]
    body: Stmt
    init: Stmt | None = None

    @property
    def loops(self) -> tuple[Loop, ...]:
        return self.spatial + self.reduction

    @property
    def dtype(self) -> str:
        """Integer type of the loops."""
        return str(self.loops[0].var.ty.dtype) if self.loops else "int32"

    @property
    def points(self) -> int:
        """How often the body runs."""
        total = 1
        for loop in self.loops:
            total *= loop.extent
        return total

    @cached_property
    def accesses(self) -> list[Access]:
        return _find_accesses(self)

    @cached_property
    def free_vars(self) -> set[Expr]:
        """Loop variables whose value matters outside of buffer indices."""
        found: set[Expr] = set()

        def prune(_load: Expr, _visitor: Any) -> None:
            return None

        def value_of_store(store: Stmt, visitor: Any) -> None:
            visitor.visit(store.value)

        def collect(var: Expr, _visitor: Any) -> None:
            found.add(var)

        callbacks = [(ir.TensorLoad, prune), (tirx.BufferStore, value_of_store), (ir.Var, collect)]
        tvm_ffi.structural_visit(self.body, callbacks)
        return found & {loop.var for loop in self.loops}

    def steps(self, var: Expr) -> list[int | None]:
        """How far one step of ``var`` moves each access, the store last."""
        return [access.steps[var] for access in self.accesses]


def substitute(node: Any, values: Mapping[Expr, Expr]) -> Any:
    """``node`` with variables replaced."""
    if node is None or not values:
        return node
    return tvm_ffi.structural_map(node, (ir.Var, lambda var: values.get(var, var)), order="post")


def loads_of(node: Any) -> list[Expr]:
    """Every buffer load in ``node``, the indices of other loads included."""
    found: list[Expr] = []
    tvm_ffi.structural_walk(node, (ir.TensorLoad, found.append), order="post")
    return found


def same_element(value: Expr, store: Stmt) -> bool:
    """Whether ``value`` is a load of what ``store`` writes."""
    if not isinstance(value, ir.TensorLoad) or not value.source.same_as(store.buffer):
        return False
    return all(tvm_ffi.structural_equal(a, b) for a, b in zip(value.indices, store.indices, strict=True))


def parse_nest(statement: Stmt) -> Nest:
    """The nest that ``statement`` is; UnsupportedNestError when it is anything else."""
    extents: dict[Expr, int] = {}
    while isinstance(statement, tirx.For):
        extents[statement.loop_var] = _constant(statement.extent)
        if _constant(statement.min) != 0 or statement.kind != tirx.ForKind.SERIAL:
            raise UnsupportedNestError("a loop that does not start at 0, or is scheduled already")
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize) or _constant(statement.predicate) != 1:
        raise UnsupportedNestError("no single block without predicate in the loops")
    return _nest_of_block(statement, extents)


def _nest_of_block(realize: Stmt, extents: dict[Expr, int]) -> Nest:
    block = realize.block
    if len(block.alloc_buffers) or len(block.match_buffers):
        raise UnsupportedNestError("a block with buffers of its own")
    spatial: list[Loop] = []
    reduction: list[Loop] = []
    units: dict[Expr, Expr] = {}
    for iter_var, value in zip(block.iter_vars, realize.iter_values, strict=True):
        extent = _constant(iter_var.dom.extent)
        if _constant(iter_var.dom.min) != 0:
            raise UnsupportedNestError("an iteration that does not start at 0")
        if extent == 1:
            units[iter_var.var] = tirx.IntImm(iter_var.var.ty.dtype, 0)
            continue
        if not isinstance(value, ir.Var) or extents.pop(value, None) != extent:
            raise UnsupportedNestError("an iteration bound to more than a loop variable")
        kind = {tirx.IterVar.DataPar: spatial, tirx.IterVar.CommReduce: reduction}.get(iter_var.iter_type)
        if kind is None:
            raise UnsupportedNestError(f"an iteration of type {iter_var.iter_type}")
        kind.append(Loop(iter_var.var, extent))
    if any(extent != 1 for extent in extents.values()):
        raise UnsupportedNestError("a loop that no iteration is bound to")
    if len({str(loop.var.ty.dtype) for loop in spatial + reduction}) > 1:
        raise UnsupportedNestError("loops of several integer types")
    body, init = substitute(block.body, units), substitute(block.init, units)
    if init is not None and not reduction:
        body, init = _with_start(body, init), None
    return Nest(tuple(spatial), tuple(reduction), body, init)


def _with_start(body: Stmt, init: Stmt) -> Stmt:
    """The only step of a reduction over nothing but unit loops."""
    if not isinstance(body, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
        raise UnsupportedNestError("a reduction of several results over one element")

    def start(load: Expr) -> Expr:
        return init.value if same_element(load, body) else load

    value = tvm_ffi.structural_map(body.value, (ir.TensorLoad, start), order="post")
    return tirx.BufferStore(body.buffer, value, body.indices)


def _constant(value: Expr) -> int:
    if isinstance(value, int):
        return value
    if not isinstance(value, tirx.IntImm):
        raise UnsupportedNestError(f"{value} is not a constant")
    return int(value.value)


def _find_accesses(nest: Nest) -> list[Access]:
    analyzer = sym.Analyzer()
    for loop in nest.loops:
        analyzer.bind(loop.var, ir.Range(0, loop.extent))

    def access(buffer: Expr, indices: Sequence[Expr], is_store: bool) -> Access:
        offset = analyzer.simplify(_offset(buffer, indices))
        steps = {loop.var: _step(offset, loop.var) for loop in nest.loops}
        return Access(buffer, offset, steps, is_store)

    found = [access(load.source, load.indices, False) for load in loads_of(nest.body)]
    stores: list[Stmt] = []
    tvm_ffi.structural_walk(nest.body, (tirx.BufferStore, stores.append), order="post")
    return found + [access(store.buffer, store.indices, True) for store in stores]


def _offset(buffer: Expr, indices: Sequence[Expr]) -> Expr:
    if not len(indices):
        return tirx.IntImm("int32", 0)
    offset = indices[0]
    for extent, index in zip(buffer.ty.shape[1:], indices[1:], strict=True):
        offset = offset * _constant(extent) + index
    return offset


def _step(offset: Expr, var: Expr) -> int | None:
    found = sym.detect_linear_equation(offset, [var])
    if len(found) != 2 or not isinstance(found[0], tirx.IntImm):
        return None
    return int(found[0].value)


def collapse(nest: Nest) -> Nest:
    """Neighbouring loops of a kind become one wherever every buffer is walked as by a single loop."""
    for kind in ("spatial", "reduction"):
        position = len(getattr(nest, kind)) - 2
        while position >= 0:
            outer, inner = getattr(nest, kind)[position : position + 2]
            if _walk_as_one(nest, outer, inner):
                nest = _merge(nest, kind, position)
            position -= 1
    return nest


class FlatViews:
    """One-dimensional views of a function's buffers, made as they are asked for.

    Merged loops index the dimensions of a buffer by quotients and remainders; only its element offset, simplified over
    the extents of the loops, shows that neighbours lie side by side. Every access must go through the view, since the
    code generator takes different buffers to be different memory.
    """

    def __init__(self) -> None:
        self._views: dict[Expr, Expr] = {}

    def declarations(self) -> list[Stmt]:
        """Statements that come before any use of the views."""
        return [tirx.DeclBuffer(view, data=tirx.buffer_data(buffer)) for buffer, view in self._views.items()]

    def rewrite(self, nest: Nest) -> Nest:
        """``nest`` with every buffer of more than one dimension replaced by its view."""
        analyzer = sym.Analyzer()
        for loop in nest.loops:
            analyzer.bind(loop.var, ir.Range(0, loop.extent))

        def load(node: Expr) -> Expr:
            if len(node.indices) < 2:
                return node
            return self._view(node.source)[analyzer.simplify(_offset(node.source, node.indices))]

        def store(node: Stmt) -> Stmt:
            if len(node.indices) < 2:
                return node
            offset = analyzer.simplify(_offset(node.buffer, node.indices))
            return tirx.BufferStore(self._view(node.buffer), node.value, [offset])

        def rewritten(statement: Stmt) -> Stmt:
            return tvm_ffi.structural_map(statement, [(ir.TensorLoad, load), (tirx.BufferStore, store)], order="post")

        return replace(nest, body=rewritten(nest.body), init=None if nest.init is None else rewritten(nest.init))

    def _view(self, buffer: Expr) -> Expr:
        if len(buffer.ty.strides):
            raise UnsupportedNestError(f"buffer {buffer.name} is not compact")
        if buffer not in self._views:
            size = math.prod(_constant(extent) for extent in buffer.ty.shape)
            self._views[buffer] = tirx.decl_buffer((size,), buffer.ty.dtype, buffer.name)
        return self._views[buffer]


def _walk_as_one(nest: Nest, outer: Loop, inner: Loop) -> bool:
    if nest.free_vars & {outer.var, inner.var}:
        return False
    pairs = zip(nest.steps(outer.var), nest.steps(inner.var), strict=True)
    return all(a is not None and b is not None and a == b * inner.extent for a, b in pairs)


def _merge(nest: Nest, kind: str, position: int) -> Nest:
    loops = getattr(nest, kind)
    outer, inner = loops[position : position + 2]
    merged = Loop(tirx.Var(f"{outer.var.name}_{inner.var.name}", outer.var.ty), outer.extent * inner.extent)
    values = {outer.var: merged.var // inner.extent, inner.var: merged.var % inner.extent}
    return replace(
        nest,
        **{kind: (*loops[:position], merged, *loops[position + 2 :])},
        body=substitute(nest.body, values),
        init=substitute(nest.init, values),
    )
