"""Builds programs for CUDA with TVM's default GPU schedules, on machines with or without a GPU.

Every kernel is emitted in its portable form here. What comes out is a Relax VM executable; packaging it as an artifact
and running it from the runtime comes in a later version, so ``compile_program`` refuses CUDA targets until then.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import ir, relax, tirx
from tvm.s_tir import dlight

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.importer.importer import import_program
from bucketmod.compiler.passes.tuple_items import hide_tuple_items, show_tuple_items
from bucketmod.compiler.pipeline import graph_phase, keep_kernels_whole
from bucketmod.compiler.program import Program
from bucketmod.compiler.target import Target

_log = logging.getLogger(__name__)


@dataclass
class CudaProgram:
    """``executable``: a Relax executable; its ``main`` takes the inputs of ``program``, last ``__seed__`` (int64[2]:
    seed, step) if ``seeded``, and returns the outputs of ``program``, which for training has the gradients in it."""

    executable: Any
    program: Program
    seeded: bool

    def source(self) -> str:
        """The CUDA source of all kernels; it is compiled when the executable is loaded."""
        return "\n".join(_sources(self.executable.mod))

    def kernels(self) -> list[str]:
        """Names of the functions that ``main`` calls, those of TVM's runtime aside."""
        called = re.findall(r"^\s*call\s+(\S+)\s+in:", self.executable.as_text(), re.MULTILINE)
        return sorted({name for name in called if not name.startswith("vm.")})


def _sources(module: Any) -> Iterator[str]:
    if module.kind == "cuda":
        yield module.inspect_source()
    for imported in module.imports:
        yield from _sources(imported)


def build_for_cuda(program: Program, mode: str, wrt: Sequence[str], target: Target) -> CudaProgram:
    """Builds a forward program for "infer", or with the gradients of ``wrt`` for "train".

    Raises CompileError naming the node or the kernel at fault.
    """
    if target.kind != "cuda":
        raise ValueError(f"target {target.name!r} is not a CUDA target")
    program = graph_phase(program, mode, wrt)
    device = target.tvm()
    with device, tvm.transform.PassContext(opt_level=3):
        module, added = import_program(program, target)
        module = schedule_gpu(_lower_operators(module), target)
        try:
            executable = relax.build(module, target=device, relax_pipeline=relax.pipeline.default_build_pipeline())
        except Exception as error:  # TVM raises many kinds
            raise _name_culprit(module, target, error) from error
    built = CudaProgram(executable, program, seeded=bool(added))
    _check_kernels(built, target)
    return built


def _check_kernels(built: CudaProgram, target: Target) -> None:
    """A function whose loops are not bound to threads becomes code for the host, which cannot read the GPU's memory."""
    on_gpu = set(re.findall(r"__global__ .*?\b(\w+)_kernel(?:_\d+)?\(", built.source()))
    missing = [name for name in built.kernels() if name not in on_gpu]
    if missing:
        raise CompileError(f"kernel {missing[0]!r} has no code for {target.name}: its loops are bound to no threads")


def _lower_operators(module: ir.IRModule) -> ir.IRModule:
    """Relax operators to kernels, fused; kernels that converters emitted stay as they are."""
    passes = [
        relax.transform.DeadCodeElimination(["main"]),
        keep_kernels_whole(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        hide_tuple_items(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        show_tuple_items(),
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
