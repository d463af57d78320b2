"""Relax's passes see kernels without their bodies, and what comes after sees them whole."""

from __future__ import annotations

import tvm_ffi
from tvm import ir, relax, tirx

from bucketmod.compiler.kernels.products.gemm import Gemm
from bucketmod.compiler.passes.kernel_bodies import KernelBodies
from bucketmod.compiler.pipeline import relax_phase
from bucketmod.compiler.target import parse_target


def two_products() -> ir.IRModule:
    """Kernels of one signature: the second reads one factor by columns."""
    builder, cpu = relax.BlockBuilder(), parse_target("cpu:x86-64-v3").cpu
    given = relax.Var("x", relax.TensorType((8, 8), "float32"))
    with builder.function("main", [given]):
        with builder.dataflow():
            value = given
            for kernel in (Gemm(8, 8, 8), Gemm(8, 8, 8, trans_b=True)):
                var = builder.add_func(kernel.tuned(cpu).without_attr("global_symbol"), kernel.name)
                value = builder.emit(relax.call_tir(var, [value, value], out_ty=given.ty))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    return builder.get()


def kernels(module: ir.IRModule) -> dict[str, tirx.PrimFunc]:
    return {var.name_hint: f for var, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}


def test_bodies_are_hidden_and_come_back():
    before, bodies = kernels(two_products()), KernelBodies()
    hidden = bodies.hide()(two_products())
    assert all(isinstance(function.body, tirx.Evaluate) for function in kernels(hidden).values())
    after = kernels(bodies.show()(hidden))
    assert set(after) == set(before) == {"gemm_nn", "gemm_nt"}
    assert all(tvm_ffi.structural_equal(after[name], before[name]) for name in before)


def test_each_kernel_keeps_its_own_through_the_relax_phase():
    before, after = kernels(two_products()), kernels(relax_phase(two_products()))
    assert set(after) == set(before)
    assert all(tvm_ffi.structural_equal(after[name], before[name]) for name in before)
