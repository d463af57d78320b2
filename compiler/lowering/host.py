"""From kernel calls to a library: kernels become private functions on pointers, an entry point calls them in order.

A direct call between functions of one LLVM module costs nanoseconds and makes no tensor objects, so a step has no
overhead that grows with the number of kernels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from tvm import ir, tirx
from tvm.s_tir import transform as s_tir
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from bucketmod.compiler.kernels.kernel import IN_PLACE, TUNED, WRITTEN
from bucketmod.compiler.lowering.calls import KernelCall, Storage, View
from bucketmod.compiler.passes.share_tasks import share_tasks
from bucketmod.compiler.target import Target
from bucketmod.runtime.entry import entry_signature

# Blocks to loops, for functions that TVM's own schedules left in that form.
_LOWER_BLOCKS = [
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
]
_FLATTEN = [tirx.transform.FlattenBuffer(), s_tir.StmtSimplify()]
# For functions that no kernel family wrote; those would come out as they went in.
_NARROW = [tirx.transform.NarrowDataType(32), s_tir.LoopPartition()]
_PLACE = [tirx.transform.VectorizeLoop(True), tirx.transform.StorageRewrite()]
# What is left to do once scratch buffers are in their place: TVM's default list would lower everything a second time
# (which takes longer than LLVM), simplify and share expressions (which LLVM does as well), and lift scratch buffers out
# of the scope that names their device.
_FINISH = [
    tirx.transform.UnrollLoop(),
    s_tir.RewriteUnsafeSelect(),
    tirx.transform.VerifyMemory(),
    tirx.transform.MakePackedAPI(),
]
PIPELINE = "bucketmod"


def _finish_pipeline() -> tuple[Any, Any, Any]:
    @tvm.transform.module_pass(opt_level=0)
    def finish(module: ir.IRModule, _: Any) -> ir.IRModule:
        return tvm.transform.Sequential(_FINISH)(module)

    return finish, finalize_host_passes, finalize_device_passes


register_tir_pipeline(PIPELINE, _finish_pipeline)


@dataclass
class EntryPoint:
    """A function of the library: it takes a signature, a table of the addresses of ``arguments``, in this order, and
    the address of the workspace."""

    name: str
    arguments: list[Storage]
    calls: list[KernelCall]


def flatten(functions: dict[ir.GlobalVar, tirx.PrimFunc]) -> ir.IRModule:
    """Lowers functions to loops over flat buffers, whose tasks threads share; tuned ones are loops already."""
    blocks = {var: function for var, function in functions.items() if not is_tuned(function)}
    written = {var: function for var, function in functions.items() if is_written(function)}
    loops = {var: function for var, function in functions.items() if var not in blocks and var not in written}
    module = tvm.transform.Sequential(_LOWER_BLOCKS)(tvm.IRModule(blocks))
    module.update(tvm.IRModule(loops))
    module = tvm.transform.Sequential([*_FLATTEN, *_NARROW])(module)
    module.update(tvm.transform.Sequential(_FLATTEN)(tvm.IRModule(written)))
    module = tvm.transform.Sequential(_PLACE)(module)
    return tvm.IRModule({var: share_tasks(function) for var, function in module.functions_items()})


def is_tuned(function: tirx.PrimFunc) -> bool:
    """Whether the function's loops are final."""
    return function.attrs is not None and TUNED in function.attrs


def is_written(function: tirx.PrimFunc) -> bool:
    """Whether a kernel family wrote the function."""
    return function.attrs is not None and WRITTEN in function.attrs


def build_object(module: ir.IRModule, target: tvm.target.Target) -> bytes:
    """Machine code, as a relocatable object, of what ``flatten`` or ``build_module`` returns."""
    built = tvm.tirx.build(module, target, pipeline=PIPELINE)
    with tempfile.TemporaryDirectory(prefix="bucketmod-build-") as folder:
        path = Path(folder, "module.o")
        built.write_to_file(str(path))
        return path.read_bytes()


def load_functions(functions: dict[str, tirx.PrimFunc], target: Target) -> dict[str, Any]:
    """The functions by name, compiled into this process and taking tensors: for measurements and tests.

    Raises ValueError where this machine cannot run them.
    """
    target.check_host()
    named = {ir.GlobalVar(name): function.with_attr("global_symbol", name) for name, function in functions.items()}
    with target.tvm(), tvm.transform.PassContext(opt_level=3):
        library = tvm.runtime.Executable(tvm.tirx.build(flatten(named), target.tvm(), pipeline=PIPELINE))
    return {name: library[name] for name in functions}


def _pointer(dtype: str) -> Any:
    return ir.PointerType(ir.PrimType(dtype), "global")


_DIRECT_CALLS = 2  # TVM's number for the calling convention of functions that take plain pointers
_VALUE = 15  # TVM's number for the field of one of its own arguments that holds the value


def _argument(table: tirx.Var, index: int, like: tirx.Var) -> Any:
    """The address in place ``index`` of a table that is laid out as TVM lays out arguments."""
    place = [table, tirx.IntImm("int32", index), tirx.IntImm("int32", _VALUE)]
    void = ir.Call(ir.Op.get("tirx.tvm_struct_get"), place, ret_ty=ir.PointerType(ir.PrimType("void")))
    return ir.Call(ir.Op.get("tirx.reinterpret"), [void], ret_ty=like.ty)


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
    alone = function.attrs is None or IN_PLACE not in function.attrs  # no two pointers lead to the same memory
    attrs = ir.make_node("ir.DictAttrs", **{"s_tir": True, "tirx.noalias": alone})
    return tirx.PrimFunc(pointers, tirx.SeqStmt(body), ret_type=ir.PrimType("int32"), attrs=attrs)


def external_function(function: tirx.PrimFunc, symbol: str) -> tirx.PrimFunc:
    """The same, for calls from another object: ``symbol`` is its name there."""
    # Any convention but the default keeps TVM from giving the function a signature for tensors.
    return private_function(function).with_attr({"global_symbol": symbol, "calling_conv": _DIRECT_CALLS})


def entry_function(
    entry: EntryPoint,
    kernels: dict[str, ir.GlobalVar | str],
    offsets: dict[Storage, int],
    workspace_bytes: int,
) -> tirx.PrimFunc:
    """The exported function of an entry point: it checks the signature of its arguments (``runtime.entry``), then
    calls the kernels: functions of the same module, or by the symbols that other objects give them."""
    signature = tirx.Var("signature", ir.PrimType("int64"))
    # One argument for all addresses: TVM checks every argument by itself, in more code than the calls take.
    addresses = tirx.Var("addresses", _pointer("uint8"))
    pointers = {s: tirx.Var(f"a{index}", _pointer(s.dtype)) for index, s in enumerate(entry.arguments)}
    workspace_pointer = tirx.Var("workspace", _pointer("uint8"))
    workspace_bytes = max(workspace_bytes, 1)
    workspace = tirx.decl_buffer((workspace_bytes,), "uint8", "workspace_bytes", data=workspace_pointer)
    flat: dict[Storage, Any] = {}  # arguments that are read from the middle

    def address(view: View) -> Any:
        storage = view.storage
        if storage not in pointers:
            return tirx.address_of(workspace[offsets[storage] + view.offset])
        if view.offset == 0:
            return pointers[storage]
        if storage not in flat:
            count, name = math.prod(storage.shape), f"{pointers[storage].name}_flat"
            flat[storage] = tirx.decl_buffer((count,), storage.dtype, name, data=pointers[storage])
        return tirx.address_of(flat[storage][view.offset // np.dtype(storage.dtype).itemsize])

    calls = [
        tirx.Evaluate(_call(kernels[call.function.name_hint], [address(view) for view in (*call.reads, *call.writes)]))
        for call in entry.calls
    ]
    expected = entry_signature([*(storage.nbytes for storage in entry.arguments), workspace_bytes])
    body = [
        tirx.AssertStmt(signature == tirx.IntImm("int64", expected), ir.StringImm("ValueError"), [
            ir.StringImm(f"{entry.name}: the arguments do not have the sizes that this library was compiled for")
        ]),
        *(tirx.Bind(pointer, _argument(addresses, index, pointer)) for index, pointer in enumerate(pointers.values())),
        tirx.DeclBuffer(workspace, data=workspace_pointer),
        *(tirx.DeclBuffer(buffer, data=pointers[storage]) for storage, buffer in flat.items()),
        *calls,
    ]  # fmt: skip
    attrs = ir.make_node("ir.DictAttrs", **{"s_tir": True, "tirx.noalias": True, "global_symbol": entry.name})
    return tirx.PrimFunc([signature, addresses, workspace_pointer], tirx.SeqStmt(body), attrs=attrs)


def _call(kernel: ir.GlobalVar | str, arguments: list[Any]) -> Any:
    if isinstance(kernel, str):
        kernel, arguments = ir.Op.get("tirx.call_extern"), [ir.StringImm(kernel), *arguments]
    return ir.Call(kernel, arguments, ret_ty=ir.PrimType("int32"))


def build_module(
    functions: dict[ir.GlobalVar, tirx.PrimFunc],
    entries: Sequence[EntryPoint],
    offsets: dict[Storage, int],
    workspace_bytes: int,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> ir.IRModule:
    """One module with the private kernels that the entries call, and the entries.

    ``elsewhere``: symbols of the kernels that other objects have (``external_function``).
    """
    used = {call.function.name_hint for entry in entries for call in entry.calls}.difference(elsewhere)
    flat = flatten({var: function for var, function in functions.items() if var.name_hint in used})
    private = {var.name_hint: ir.GlobalVar(var.name_hint) for var, _ in flat.functions_items()}
    module: dict[ir.GlobalVar, Any] = {
        private[var.name_hint]: private_function(function) for var, function in flat.functions_items()
    }
    for entry in entries:
        kernels = {**private, **elsewhere}
        module[ir.GlobalVar(entry.name)] = entry_function(entry, kernels, offsets, workspace_bytes)
    return tvm.IRModule(module)
