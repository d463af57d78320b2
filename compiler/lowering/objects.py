"""Machine code of a program: the kernels of its forward pass with matrix products are objects by themselves.

They and the kernels that pack weights take most of the time, and programs have them in common: what inference runs is
the forward pass of training. So a process compiles each once and remembers the code. They are apart whether or not
another program was there before: the same program gives the same library in every process.
"""

from __future__ import annotations

import functools

import tvm
import tvm_ffi
from tvm import ir, tirx

from bucketmod.compiler.kernels.kernel import COMMON
from bucketmod.compiler.lowering.host import build_module, build_object, external_function, flatten
from bucketmod.compiler.lowering.layout import Layout
from bucketmod.compiler.target import Target

# Objects that are remembered, 5 to 50 KB each; a program has ten at most.
_KEPT = 64


def build_objects(functions: dict[ir.GlobalVar, tirx.PrimFunc], layout: Layout, target: Target) -> list[bytes]:
    """The relocatable objects that make up the library of a program. Runs in the context of its ``LoweredProgram``."""
    apart = _shared_kernels(functions, layout)
    symbols = {name: f"bucketmod_{name}" for name in apart}
    module = build_module(functions, layout.entries, layout.offsets, layout.workspace_bytes, symbols)
    return [
        build_object(module, target.tvm()),
        *(_kernel_object(symbols[name], tvm_ffi.StructuralKey(function), target) for name, function in apart.items()),
    ]


def _shared_kernels(functions: dict[ir.GlobalVar, tirx.PrimFunc], layout: Layout) -> dict[str, tirx.PrimFunc]:
    forward = {call.function.name_hint for entry in layout.entries if entry.name != "backward" for call in entry.calls}
    return {
        var.name_hint: function
        for var, function in functions.items()
        if var.name_hint in forward and function.attrs is not None and COMMON in function.attrs
    }


@functools.lru_cache(maxsize=_KEPT)
def _kernel_object(symbol: str, function: tvm_ffi.StructuralKey, target: Target) -> bytes:
    name = ir.GlobalVar(symbol)
    kernel = external_function(flatten({name: function.key})[name], symbol)
    return build_object(tvm.IRModule({name: kernel}), target.tvm())
