"""Builds programs for CUDA with TVM's default GPU schedules, on machines with or without a GPU.

Every kernel is emitted in its portable form here. What comes out is a Relax VM executable; packaging it as an artifact
and running it from the runtime comes in a later version, so ``compile_program`` refuses CUDA targets until then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import ir, relax, tirx
from tvm.s_tir import dlight

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.importer.importer import import_program
from bucketmod.compiler.pipeline import graph_phase, keep_kernels_whole
from bucketmod.compiler.program import Program
from bucketmod.compiler.target import Target

_log = logging.getLogger(__name__)


def build_for_cuda(program: Program, mode: str, wrt: Sequence[str], target: Target) -> Any:
    """Returns a Relax executable whose ``main`` takes the program's inputs (and ``__seed__`` last, when it draws random
    numbers) and returns its outputs. Raises CompileError naming the node or the kernel at fault."""
    if target.kind != "cuda":
        raise ValueError(f"target {target.name!r} is not a CUDA target")
    program = graph_phase(program, mode, wrt)
    device = target.tvm()
    with device, tvm.transform.PassContext(opt_level=3):
        module, _ = import_program(program, target)
        module = schedule_gpu(_lower_operators(module), target)
        try:
            return relax.build(module, target=device, relax_pipeline=relax.pipeline.default_build_pipeline())
        except Exception as error:  # TVM raises many kinds
            raise _name_culprit(module, target, error) from error


def _lower_operators(module: ir.IRModule) -> ir.IRModule:
    """Relax operators to kernels, fused; kernels that converters emitted stay as they are."""
    passes = [
        relax.transform.DeadCodeElimination(["main"]),
        keep_kernels_whole(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["main"]),
    ]
    return tvm.transform.Sequential(passes)(module)


def schedule_gpu(module: ir.IRModule, target: Target) -> ir.IRModule:
    """Binds the loops of every kernel to threads."""
    functions = {
        var: _schedule(var.name_hint, function, target) if isinstance(function, tirx.PrimFunc) else function
        for var, function in module.functions_items()
    }
    return ir.IRModule(functions, attrs=module.attrs)


def _schedule(name: str, function: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """The first rule that takes the function. A rule that stumbles over a form it was not made for leaves the function
    to the next; the last one takes all that have blocks."""
    rules = [
        dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    ]
    reason: Exception | str = "no rule takes it"
    for rule in rules:
        try:
            schedule = rule.apply(function, target.tvm(), False)
        except Exception as error:  # assertions, schedule and internal errors alike
            _log.debug("%s: %s failed: %s", name, type(rule).__name__, error)
            reason = error
            continue
        if schedule is not None:
            scheduled = (schedule[0] if isinstance(schedule, list) else schedule).mod["main"]
            return scheduled.with_attr("tirx.is_scheduled", True)
    raise CompileError(f"kernel {name!r} cannot be scheduled for {target.name}: {reason}")


def _name_culprit(module: ir.IRModule, target: Target, error: Exception) -> CompileError:
    """The first kernel that does not build alone, or else the program as a whole."""
    for var, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            try:
                tvm.compile(ir.IRModule({"main": function.with_attr("global_symbol", "main")}), target=target.tvm())
            except Exception as own:
                return CompileError(f"kernel {var.name_hint!r} cannot be built for {target.name}: {own}")
    return CompileError(f"the program cannot be built for {target.name}: {error}")
