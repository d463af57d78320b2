"""From kernel calls to a library: kernels become private functions on pointers, an entry point calls them in order.

A direct call between functions of one LLVM module costs nanoseconds and makes no tensor objects, so a step has no
overhead that grows with the number of kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import ir, tirx
from tvm.s_tir import transform as s_tir

from bucketmod.compiler.lowering.calls import KernelCall, Storage, View

_FLATTEN = [
    s_tir.CanonicalizeLoop(),
    s_tir.LowerCrossThreadReduction(),
    s_tir.LowerInitBlock(),
    s_tir.PlanAndUpdateBufferAllocationLocation(),
    s_tir.ConvertBlocksToOpaque(),
    s_tir.CompactBufferAllocation(),
    s_tir.LowerMatchBuffer(),
    s_tir.StmtSimplify(),
    s_tir.AnnotateIrregularLoop(),
    s_tir.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    s_tir.StmtSimplify(),
    tirx.transform.NarrowDataType(32),
    s_tir.LoopPartition(),
    tirx.transform.VectorizeLoop(True),
    tirx.transform.StorageRewrite(),
]
# StorageRewrite ran above: a second run would lift scratch buffers out of the scope that names their device.
BUILD_CONFIG = {"tirx.disable_storage_rewrite": True}


@dataclass
class EntryPoint:
    """A function of the library: it takes ``arguments`` in this order and last the workspace."""

    name: str
    arguments: list[Storage]
    calls: list[KernelCall]


def flatten(functions: dict[ir.GlobalVar, tirx.PrimFunc]) -> ir.IRModule:
    """Lowers scheduled blocks to loops over flat buffers."""
    return tvm.transform.Sequential(_FLATTEN)(tvm.IRModule(functions))


def _pointer(dtype: str) -> Any:
    return ir.PointerType(ir.PrimType(dtype), "global")


def _on_cpu(body: tirx.Stmt) -> tirx.Stmt:
    """Scratch buffers too large for the stack are taken from the device that these attributes name: the CPU."""
    body = tirx.AttrStmt("default", "device_type", tirx.IntImm("int32", 1), body)
    return tirx.AttrStmt("default", "device_id", tirx.IntImm("int32", 0), body)


def private_function(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same kernel on plain pointers, for direct calls. It returns 0: one with a parallel loop inside must."""
    pointers, body = [], []
    for index, buffer in enumerate(function.params):
        pointer = tirx.Var(f"p{index}", _pointer(str(buffer.dtype)))
        pointers.append(pointer)
        body.append(tirx.DeclBuffer(buffer, data=pointer))
    body += [_on_cpu(function.body), tirx.Return(tirx.IntImm("int32", 0))]
    attrs = ir.make_node("ir.DictAttrs", **{"s_tir": True, "tirx.noalias": True})
    return tirx.PrimFunc(pointers, tirx.SeqStmt(body), ret_type=ir.PrimType("int32"), attrs=attrs)


def entry_function(
    entry: EntryPoint,
    private: dict[str, ir.GlobalVar],
    offsets: dict[Storage, int],
    workspace_bytes: int,
) -> tirx.PrimFunc:
    """The exported function of an entry point. It checks shapes and dtypes of its arguments, then calls the kernels."""
    buffers = {
        storage: tirx.decl_buffer(storage.shape, storage.dtype, f"a{index}")
        for index, storage in enumerate(entry.arguments)
    }
    workspace = tirx.decl_buffer((max(workspace_bytes, 1),), "uint8", "workspace")

    def address(view: View) -> Any:
        if view.storage in buffers:
            buffer = buffers[view.storage]
            if view.offset == 0:
                return buffer.data
            element = view.offset // np.dtype(view.storage.dtype).itemsize
            return tirx.address_of(buffer[_unravel(element, view.storage.shape)])
        return tirx.address_of(workspace[offsets[view.storage] + view.offset])

    body = [
        tirx.Evaluate(
            ir.Call(
                private[call.function.name_hint],
                [address(view) for view in (*call.reads, *call.writes)],
                ret_ty=ir.PrimType("int32"),
            )
        )
        for call in entry.calls
    ]
    if len(body) < 2:  # a sequence may not be shorter
        body += [tirx.Evaluate(tirx.IntImm("int32", 0))] * 2
    attrs = ir.make_node("ir.DictAttrs", **{"s_tir": True, "tirx.noalias": True, "global_symbol": entry.name})
    return tirx.PrimFunc([*buffers.values(), workspace], tirx.SeqStmt(body), attrs=attrs)


def _unravel(element: int, shape: Sequence[int]) -> list[int]:
    return [int(i) for i in np.unravel_index(element, tuple(shape))]


def build_module(
    functions: dict[ir.GlobalVar, tirx.PrimFunc],
    entries: Sequence[EntryPoint],
    offsets: dict[Storage, int],
    workspace_bytes: int,
) -> ir.IRModule:
    """One module with the private kernels that the entries call, and the entries."""
    used = {call.function.name_hint for entry in entries for call in entry.calls}
    flat = flatten({var: function for var, function in functions.items() if var.name_hint in used})
    private = {var.name_hint: ir.GlobalVar(var.name_hint) for var, _ in flat.functions_items()}
    module: dict[ir.GlobalVar, Any] = {
        private[var.name_hint]: private_function(function) for var, function in flat.functions_items()
    }
    for entry in entries:
        module[ir.GlobalVar(entry.name)] = entry_function(entry, private, offsets, workspace_bytes)
    return tvm.IRModule(module)
