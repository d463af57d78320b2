"""The compiler from end to end: the ordered list of what happens to a program on its way to an artifact."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import ir, relax, tirx

from bucketmod.compiler import versions
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.attention import find_attention
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.epilogues import fuse_epilogues
from bucketmod.compiler.graph.recurrences import find_recurrences, normalize_recurrences
from bucketmod.compiler.graph.softmax_head import fuse_softmax_heads
from bucketmod.compiler.importer.importer import import_program
from bucketmod.compiler.linker import find_linker, link
from bucketmod.compiler.lowering.calls import read_calls
from bucketmod.compiler.lowering.host import build_module, build_object, is_tuned
from bucketmod.compiler.lowering.layout import Layout, lay_out
from bucketmod.compiler.lowering.objects import build_objects
from bucketmod.compiler.passes.kernel_bodies import KernelBodies
from bucketmod.compiler.passes.schedule_cpu import schedule_cpu
from bucketmod.compiler.passes.tuple_items import hide_tuple_items, show_tuple_items
from bucketmod.compiler.program import Program
from bucketmod.compiler.target import Target, parse_target
from bucketmod.compiler.tuning import Tuner
from bucketmod.runtime.artifact import CONSTANTS_FILE, Manifest, TensorSpec

logger = logging.getLogger(__name__)

MODES = ("train", "infer")
_VIEWS = ["relax.reshape", "relax.memory.view"]  # they cost nothing: lowering reads them as another shape

_OPAQUE = 8  # Relax's operator pattern for functions that nothing may be fused with


@dataclass
class CompiledProgram:
    """An artifact before it is stored: its manifest, and the bytes of each file beside it."""

    manifest: Manifest
    files: dict[str, bytes] = field(default_factory=dict)


def graph_phase(program: Program, mode: str, wrt: Sequence[str]) -> Program:
    """ONNX to ONNX: recurrences and attention are found before differentiation, which then takes each as a whole."""
    program = fold_constants(find_recurrences(normalize_recurrences(program)))
    program = find_attention(program, wrt)
    if mode == "train":
        program = fold_constants(differentiate(program, wrt))
    return fuse_epilogues(fuse_softmax_heads(program))


def keep_kernels_whole() -> Any:
    """Marks the kernels that converters emitted, so that fusion takes legalized operators only."""

    @tvm.transform.module_pass(opt_level=0, name="keep_kernels_whole")
    def mark(module: ir.IRModule, _: Any) -> ir.IRModule:
        for var, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                module.update_func(var, function.with_attr("op_pattern", _OPAQUE))
        return module

    return mark


def relax_phase(module: ir.IRModule) -> ir.IRModule:
    """Relax operators to kernels: what was not emitted as a kernel is legalized and fused."""
    transform, bodies = relax.transform, KernelBodies()
    passes = [
        bodies.hide(),
        transform.DeadCodeElimination(["main"]),
        keep_kernels_whole(),
        transform.LegalizeOps(skip_ops=_VIEWS),
        transform.AnnotateTIROpPattern(),
        hide_tuple_items(),
        transform.FuseOps(),
        transform.FuseTIR(),
        show_tuple_items(),
        transform.DeadCodeElimination(["main"]),
        transform.ToNonDataflow(),
        bodies.show(),
    ]
    return tvm.transform.Sequential(passes)(module)


def schedule_phase(module: ir.IRModule, target: Target) -> dict[ir.GlobalVar, tirx.PrimFunc]:
    """Loops for this CPU: tuned kernels have theirs already."""
    assert target.cpu is not None
    functions = {}
    for var, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            functions[var] = function if is_tuned(function) else schedule_cpu(function, target.cpu)
    return functions


def compile_program(
    program: Program, mode: str, wrt: Sequence[str], target_name: str, tune: bool = False
) -> CompiledProgram:
    """Compiles a forward program.

    ``mode``: "train" (entries ``forward`` and ``backward``) or "infer" (``infer``, and ``prepare`` before it);
    ``wrt``: inputs whose gradients are wanted, for "train"; ``tune``: how kernels are cut is measured here, not left to
    the models of cost. Raises CompileError (or a class of it) naming the node at fault, NotImplementedError for CUDA,
    for which programs can be built (see ``compiler.cuda``) but not run yet, and ValueError to tune for a target that
    this machine cannot run.
    """
    started = time.perf_counter()
    lowered = lower_program(program, mode, wrt, target_name, tune)
    with lowered.context():
        name, library = _build_library(lowered)
    manifest = describe(lowered, mode, time.perf_counter() - started)
    return package(manifest, name, library, lowered.layout.constants)


def _build_library(lowered: LoweredProgram) -> tuple[str, bytes]:
    """Name and contents of the library file."""
    layout, target = lowered.layout, lowered.target
    if find_linker() is not None:
        library = link(build_objects(lowered.functions, layout, target))
        if library is not None:
            return "module.so", library
    # One object is what can be loaded without having been linked. A linker that fails is as good as none.
    module = build_module(lowered.functions, layout.entries, layout.offsets, layout.workspace_bytes)
    return "module.o", build_object(module, target.tvm())


@dataclass
class LoweredProgram:
    """A program as kernels with final loops, laid out in memory: what is left is machine code. ``tuning``: the choices
    that were measured, as the manifest has them."""

    program: Program
    target: Target
    functions: dict[ir.GlobalVar, tirx.PrimFunc]
    layout: Layout
    tuning: dict[str, str] = field(default_factory=dict)

    def context(self) -> contextlib.ExitStack:
        """The target and TVM's settings, which every pass runs under."""
        return _settings(self.target)


def _settings(target: Target) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(target.tvm())
    stack.enter_context(tvm.transform.PassContext(opt_level=3))
    return stack


def lower_program(
    program: Program, mode: str, wrt: Sequence[str], target_name: str, tune: bool = False
) -> LoweredProgram:
    """Everything but machine code. Arguments and errors are those of ``compile_program``."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: expected one of {MODES}")
    target = parse_target(target_name)
    if target.cpu is None:
        raise NotImplementedError(f"running on {target.name} is not built yet: CUDA execution comes in a later version")
    tuner = Tuner(target) if tune else None
    program = graph_phase(program, mode, wrt)
    logger.debug("%d nodes after the graph phase", len(program.model.graph.node))
    with _settings(target):
        module, added = import_program(program, target, tuner)
        module = relax_phase(module)
        functions = schedule_phase(module, target)
        layout = lay_out(program, read_calls(module), functions, added, mode)
    functions.update(layout.copies)
    return LoweredProgram(program, target, functions, layout, tuner.report() if tuner is not None else {})


def describe(lowered: LoweredProgram, mode: str, seconds: float) -> Manifest:
    """The manifest, but for the names and digests of the files."""
    program, layout, target = lowered.program, lowered.layout, lowered.target
    assert target.cpu is not None
    entries = {entry.name: [layout.names[storage] for storage in entry.arguments] for entry in layout.entries}
    tensors = [
        TensorSpec(name=port.name, role=port.role, shape=port.shape, dtype=port.dtype, of=port.of, offset=None)
        for port in (*program.inputs, *layout.added)
    ]
    for storage, digest in layout.prepared.items():
        tensors.append(TensorSpec(name=layout.names[storage], role="prepared", shape=storage.shape,
                                   dtype=storage.dtype, of=digest, offset=None))  # fmt: skip
    for name, value in layout.constants.items():
        tensors.append(TensorSpec(name=name, role="constant", shape=value.shape, dtype=value.dtype.name, of="",
                                   offset=None))  # fmt: skip
    for port in program.outputs:
        tensors.append(TensorSpec(name=port.name, role=port.role, shape=port.shape, dtype=port.dtype, of=port.of,
                                   offset=layout.output_offsets.get(port.name)))  # fmt: skip
    return Manifest(
        mode=mode,
        target=target.name,
        cpu_flags=target.cpu.flags,
        library="",
        library_sha256="",
        constants_sha256="",
        workspace_bytes=layout.workspace_bytes,
        nodes=sum(len(entry.calls) for entry in layout.entries),
        compile_seconds=seconds,
        compiler=versions(),
        model_digest=program.digest(),
        tensors=tuple(tensors),
        entries={name: tuple(arguments) for name, arguments in entries.items()},
        tuning=lowered.tuning,
    )


def package(manifest: Manifest, name: str, library: bytes, constants: dict[str, np.ndarray]) -> CompiledProgram:
    """Names the files in the manifest: the library and the constants."""
    files = {name: library}
    digest = ""
    if constants:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(constants)
        np.savez(buffer, **arrays)
        files[CONSTANTS_FILE] = buffer.getvalue()
        digest = hashlib.sha256(files[CONSTANTS_FILE]).hexdigest()
    manifest = dataclasses.replace(
        manifest, library=name, library_sha256=hashlib.sha256(library).hexdigest(), constants_sha256=digest
    )
    return CompiledProgram(manifest, files)
