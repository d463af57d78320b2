"""CPU loops for functions that no kernel family wrote: inlined, collapsed, vectorised and split over threads.

Elementary functions of float32 are written out on the way, as ``vector_math`` does.
"""

from __future__ import annotations

import logging
import math

from tvm import IRModule, ir, s_tir, tirx

from bucketmod.compiler.kernels.kernel import TUNED
from bucketmod.compiler.passes.bindings import hold_names
from bucketmod.compiler.passes.loop_nest import (
    Expr,
    FlatViews,
    Nest,
    Stmt,
    UnsupportedNestError,
    collapse,
    loads_of,
    parse_nest,
)
from bucketmod.compiler.passes.map_loops import emit_map
from bucketmod.compiler.passes.reduction_loops import Reduction, emit_reduction
from bucketmod.compiler.passes.vector_loops import LoopMaker, find_calls, sequence
from bucketmod.compiler.passes.vector_math import vector_math
from bucketmod.compiler.target import CpuFeatures

_log = logging.getLogger(__name__)

# How many times its consumers may compute an inlined element again, with and without elementary functions in it.
_MOST_CALLS_AGAIN = 2
_MOST_SUMS_AGAIN = 8
_MOST_LOADS = 128  # in one expression: inlining a chain in which each value is used twice doubles it at every step


def schedule_cpu(func: tirx.PrimFunc, cpu: CpuFeatures) -> tirx.PrimFunc:
    """``func`` with final loops for ``cpu``; a function that carries ``TUNED`` is returned as it is.

    ``func`` is what Relax's ``LegalizeOps`` and ``FuseTIR``, or ``te.create_prim_func``, make: blocks in serial loops
    over compact buffers. Element-wise chains become one loop. The order of every sum depends on shapes and on ``cpu``
    alone. A function of another form is returned with its outermost loops made parallel, or unchanged.
    """
    if func.attrs and TUNED in func.attrs:
        return func
    try:
        return _emit_function(vector_math(_inline(func)), cpu)
    except Exception as error:  # a slow function is better than none, whatever TVM stumbles over
        _log.debug("plain loops for %s: %s", func.attrs.get("global_symbol", "a function"), error)
        return _with_names_held(_parallel_only(vector_math(func)))


def _emit_function(func: tirx.PrimFunc, cpu: CpuFeatures) -> tirx.PrimFunc:
    root = _root_block(func)
    statements = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    views = FlatViews()
    loops = [_emit_nest(views.rewrite(collapse(parse_nest(statement))), cpu) for statement in statements]
    body = sequence([tirx.AllocBuffer(buffer) for buffer in root.alloc_buffers], views.declarations(), loops)
    attributes = {TUNED: True, "tirx.is_scheduled": True, "tirx.noalias": True}
    return _with_names_held(func.with_body(body).with_attr(attributes))


def _with_names_held(func: tirx.PrimFunc) -> tirx.PrimFunc:
    # Bodies were copied, and with them the variables named inside their expressions: each needs its own.
    func = _with_own_variables(func)
    return _with_own_variables(func.with_body(hold_names(func.body)))


def _with_own_variables(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return tirx.transform.ConvertSSA()(IRModule({"main": func}))["main"]


def _emit_nest(nest: Nest, cpu: CpuFeatures) -> Stmt:
    make = LoopMaker(cpu, nest.dtype)
    if nest.reduction:
        reduction = Reduction.of(nest)
        return make.plain(nest) if reduction is None else emit_reduction(reduction, make)
    if nest.spatial and isinstance(nest.body, tirx.BufferStore):
        return emit_map(nest, make)
    return make.plain(nest)


def _root_block(func: tirx.PrimFunc) -> Stmt:
    if not isinstance(func.body, s_tir.SBlockRealize) or len(func.body.block.iter_vars):
        raise UnsupportedNestError("no root block")
    return func.body.block


def _inline(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func`` with its injective producers moved into their consumers, where that pays."""
    intermediates = list(_root_block(func).alloc_buffers)
    schedule = s_tir.Schedule(IRModule({"main": func.with_attr("global_symbol", "main")}))
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        if _pays_to_inline(schedule, block, intermediates):
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                continue
    return func.with_body(schedule.mod["main"].body)


def _pays_to_inline(schedule: s_tir.Schedule, handle: Expr, intermediates: list[Expr]) -> bool:
    block = schedule.get(handle)
    if not isinstance(block.body, tirx.BufferStore) or not any(block.body.buffer.same_as(i) for i in intermediates):
        return False
    if any(iteration.iter_type != tirx.IterVar.DataPar for iteration in block.iter_vars):
        return False
    value = block.body.value
    own_loads = len(loads_of(value))
    if isinstance(value, ir.TensorLoad) or own_loads == 0:
        return True
    computed = 0
    for consumer in (schedule.get(c) for c in schedule.get_consumers(handle)):
        uses = sum(load.source.same_as(block.body.buffer) for load in loads_of(consumer.body))
        if uses * own_loads + len(loads_of(consumer.body)) > _MOST_LOADS:
            return False
        computed += uses * _points(consumer)
    again = computed / max(1, _points(block))
    return again <= (_MOST_CALLS_AGAIN if find_calls(value) else _MOST_SUMS_AGAIN)


def _points(block: Stmt) -> int:
    extents = [iteration.dom.extent for iteration in block.iter_vars]
    if not all(isinstance(extent, tirx.IntImm) for extent in extents):
        raise UnsupportedNestError("an extent that is not a constant")
    return math.prod(int(extent.value) for extent in extents)


def _parallel_only(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func`` with the outermost spatial loop of each block parallel, as far as it can be scheduled at all."""
    try:
        schedule = s_tir.Schedule(IRModule({"main": func.with_attr("global_symbol", "main")}))
        for block in schedule.get_child_blocks(schedule.get_sblock("root")):
            loops = schedule.get_loops(block)
            if loops:
                try:
                    schedule.parallel(loops[0])
                except s_tir.ScheduleError:
                    continue
        return func.with_body(schedule.mod["main"].body)
    except Exception as error:
        _log.debug("unscheduled: %s", error)
        return func
