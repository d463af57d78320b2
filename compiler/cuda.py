"""Builds programs for CUDA with TVM's default GPU schedules, on machines with or without a GPU.

Every kernel is emitted in its portable form here. What comes out is a Relax VM executable; packaging it as an artifact
and running it from the runtime comes in a later version, so ``compile_program`` refuses CUDA targets until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.s_tir import dlight

from bucketmod.compiler.importer.importer import import_program
from bucketmod.compiler.pipeline import graph_phase, keep_kernels_whole
from bucketmod.compiler.program import Program
from bucketmod.compiler.target import Target


def build_for_cuda(program: Program, mode: str, wrt: Sequence[str], target: Target) -> Any:
    """Returns a Relax executable whose ``main`` takes the program's inputs (and ``__seed__`` last, when it draws random
    numbers) and returns its outputs. Raises CompileError naming the node at fault."""
    if target.kind != "cuda":
        raise ValueError(f"target {target.name!r} is not a CUDA target")
    program = graph_phase(program, mode, wrt)
    device = target.tvm()
    with device, tvm.transform.PassContext(opt_level=3):
        module, _ = import_program(program, target)
        passes = [
            relax.transform.DeadCodeElimination(["main"]),
            keep_kernels_whole(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
            dlight.ApplyDefaultSchedule(
                dlight.gpu.Matmul(),
                dlight.gpu.GEMV(),
                dlight.gpu.Reduction(),
                dlight.gpu.GeneralReduction(),
                dlight.gpu.Fallback(),
            ),
        ]
        module = tvm.transform.Sequential(passes)(module)
        return relax.build(module, target=device, relax_pipeline=relax.pipeline.default_build_pipeline())
