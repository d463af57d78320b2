"""Where each tensor of a program lives, and which kernel calls make up each entry point.

Outputs stay in the workspace, gradients go straight into the caller's buffers. What the outputs need runs in
``forward``; the rest of a training program runs in ``backward``. What inference need not do in every step runs in
``prepare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.lowering.calls import CallList, KernelCall, Storage, View
from bucketmod.compiler.lowering.host import EntryPoint
from bucketmod.compiler.lowering.plan import lifetimes, plan_offsets, share_in_place
from bucketmod.compiler.lowering.preparation import find_preparation
from bucketmod.compiler.program import Port, Program


@dataclass
class Layout:
    """``names``: manifest name of each argument; ``output_offsets``: bytes in the workspace; ``constants``: by
    name; ``added``: inputs behind those of the program; ``prepared``: what is computed once for many steps, with its
    digest (``preparation``); ``copies``: kernels added for values that had to move."""

    entries: list[EntryPoint]
    offsets: dict[Storage, int]
    workspace_bytes: int
    names: dict[Storage, str]
    output_offsets: dict[str, int]
    constants: dict[str, np.ndarray]
    added: Sequence[Port]
    prepared: dict[Storage, str]
    copies: dict[ir.GlobalVar, tirx.PrimFunc] = field(default_factory=dict)


class _Builder:
    def __init__(self, program: Program, calls: CallList, added: Sequence[Port]):
        self.program, self.calls = program, calls
        ports = [*program.inputs, *added]
        self.names = {storage: port.name for storage, port in zip(calls.inputs, ports, strict=True)}
        self.by_rows = {port.of for port in added if port.role == "gradient_rows"}
        self.copies: dict[ir.GlobalVar, tirx.PrimFunc] = {}
        self.tail: list[KernelCall] = []  # copies that run after everything else
        self.outputs: dict[str, View] = {}

    def parameters(self) -> dict[Storage, str]:
        """Inputs that stay from step to step, and their names."""
        kept = {port.name for port in self.program.inputs if port.role in ("parameter", "auxiliary")}
        written = {port.of for port in self.program.outputs if port.role == "auxiliary"}
        return {storage: name for storage, name in self.names.items() if name in kept - written}

    def place_results(self) -> None:
        owned: set[Storage] = set()
        for port, view in zip(self.program.outputs, self.calls.results, strict=True):
            if port.role == "output":
                self.outputs[port.name] = self._in_workspace(view)
        pinned = {view.storage for view in self.outputs.values()}
        for port, view in zip(self.program.outputs, self.calls.results, strict=True):
            if port.role != "output":
                self._in_caller_buffer(port, view, owned, pinned)

    def _in_workspace(self, view: View) -> View:
        """An output that is an input or a constant is copied: the caller may change those before reading it."""
        if view.storage.kind == "intermediate":
            return view
        storage = Storage("intermediate", f"output.{view.storage.name}", view.shape, view.dtype)
        return self._copy(view, storage)

    def _in_caller_buffer(self, port: Port, view: View, owned: set[Storage], pinned: set[Storage]) -> None:
        """A gradient is written by its kernel where the caller wants it, unless something else needs that memory."""
        direct = view.storage.kind == "intermediate" and view.whole and view.storage not in owned | pinned
        if direct and port.role == "gradient":
            view.storage.kind = "gradient"
            view.storage.shape = port.shape  # a kernel may have seen the same bytes in another shape
            owned.add(view.storage)
            self.names[view.storage] = port.name
            return
        if port.of in self.by_rows and port.role == "gradient":
            raise CompileError(f"internal: gradient {port.name!r} keeps its rows, but would be written elsewhere first")
        if port.role == "gradient":
            storage = Storage("gradient", port.name, port.shape, port.dtype)
            self.names[storage] = port.name
        else:  # an auxiliary state is replaced in place once all have read it
            storage = next(s for s, name in self.names.items() if name == port.of)
        self._copy(view, storage)

    def _copy(self, view: View, storage: Storage) -> View:
        target = View(storage, 0, view.shape, view.dtype)
        function = ir.GlobalVar(f"copy_{len(self.copies)}")
        self.copies[function] = copy_kernel(int(np.prod(view.shape, dtype=np.int64)), view.dtype)
        self.tail.append(KernelCall(function, [view], [target]))
        return target


def copy_kernel(count: int, dtype: str) -> tirx.PrimFunc:
    """Copies a flat tensor."""
    with IRBuilder() as builder:
        with build.prim_func():
            source = build.arg("source", build.buffer((count,), dtype))
            target = build.arg("target", build.buffer((count,), dtype))
            with build.serial(count) as i:
                build.buffer_store(target, source[i], [i])
    return builder.get()


def _needed(calls: list[KernelCall], outputs: dict[str, View]) -> list[bool]:
    """Which calls the outputs depend on."""
    wanted = {view.storage for view in outputs.values()}
    needed = [False] * len(calls)
    for index in range(len(calls) - 1, -1, -1):
        call = calls[index]
        if any(view.storage in wanted for view in call.writes):
            needed[index] = True
            wanted.update(view.storage for view in call.reads)
    return needed


def make_entry(name: str, calls: list[KernelCall]) -> EntryPoint:
    """Arguments are whatever the calls touch outside of the workspace, in order of first use."""
    arguments: dict[Storage, None] = {}
    for call in calls:
        for view in (*call.reads, *call.writes):
            if view.storage.kind != "intermediate":
                arguments[view.storage] = None
    return EntryPoint(name, list(arguments), calls)


Parts = dict[str, list[KernelCall]]  # by the name of the entry


def _inference_parts(
    builder: _Builder, functions: Mapping[ir.GlobalVar, tirx.PrimFunc], outputs: set[Storage]
) -> tuple[Parts, dict[Storage, str]]:
    """``prepare``, where there is something to prepare, and ``infer``; what is prepared, with its digest."""
    found = find_preparation(builder.calls, functions, builder.parameters(), outputs)
    if not found.digests:
        return {"infer": [*builder.calls.calls, *builder.tail]}, {}
    return {"prepare": found.calls, "infer": [*found.rest, *builder.tail]}, found.digests


def _training_parts(builder: _Builder) -> Parts:
    calls = [*builder.calls.calls, *builder.tail]
    needed = _needed(calls, builder.outputs)
    forward, backward = ([c for c, n in zip(calls, needed, strict=True) if n is which] for which in (True, False))
    return {"forward": forward, "backward": backward}


def lay_out(
    program: Program,
    calls: CallList,
    functions: Mapping[ir.GlobalVar, tirx.PrimFunc],
    added: Sequence[Port],
    mode: str,
) -> Layout:
    """Plans memory and entry points of a lowered program. ``added``: what it takes behind the program's inputs."""
    builder = _Builder(program, calls, added)
    builder.place_results()
    pinned = {view.storage for view in builder.outputs.values()}
    prepared: dict[Storage, str] = {}
    if mode == "infer":
        parts, prepared = _inference_parts(builder, functions, pinned)
    else:
        parts = _training_parts(builder)
    entries = [make_entry(name, part) for name, part in parts.items()]
    builder.names.update({storage: f"prepared{index}" for index, storage in enumerate(prepared)})
    in_order = [call for part in parts.values() for call in part]
    homes = share_in_place(in_order, pinned)
    offsets, total = plan_offsets(lifetimes(in_order, pinned, homes))
    offsets |= {storage: offsets[home] for storage, home in homes.items()}
    constants: dict[str, np.ndarray] = {}
    for entry in entries:
        for storage in entry.arguments:
            if storage.kind == "constant" and storage.value is not None:
                builder.names[storage] = storage.name
                constants[storage.name] = storage.value
    output_offsets = {name: offsets[view.storage] + view.offset for name, view in builder.outputs.items()}
    return Layout(entries, offsets, total, builder.names, output_offsets, constants, added, prepared, builder.copies)
