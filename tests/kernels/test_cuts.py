"""Kernels cut in other ways than the model of cost says, as measurements may choose them, compute the same."""

import numpy as np
import pytest
from kernel_runner import build, call

from bucketmod.compiler.kernels.products.choice import chosen_cut
from bucketmod.compiler.kernels.products.gemm import Gemm
from bucketmod.compiler.kernels.products.packed_weight import packed_size
from bucketmod.compiler.kernels.products.plan import Plan
from bucketmod.compiler.kernels.products.tile_plan import TilePlan
from bucketmod.compiler.kernels.softmax_head.gradients import HeadDataGradient, HeadWeightGradient
from bucketmod.compiler.kernels.softmax_head.softmax_head import SoftmaxProjection

tvm = pytest.importorskip("tvm")

KERNELS = [
    Gemm(150, 307, 200, trans_b=True, bias=True, activation="relu"),
    Gemm(91, 300, 130, trans_a=True, column_sums=True),
    Gemm(91, 300, 130, trans_a=True, shift=13),
    Gemm(65, 300, 72, addend=True),
    Gemm(65, 64, 48, batch=3),
    HeadDataGradient(91, 40, 1009),
    HeadWeightGradient(91, 40, 1009),
    HeadWeightGradient(91, 40, 1009, uniform=True),
    SoftmaxProjection(91, 40, 1009),
]


def inputs_of(kernel):
    rng = np.random.default_rng(3)
    made = [rng.standard_normal(shape).astype(dtype) for shape, dtype in kernel.inputs]
    for name, position in (("head_data_gradient", 2), ("head_weight_gradient", 3)):
        if kernel.name == name:
            made[position] = rng.integers(-1, 1010, made[position].shape).astype(np.float32)
    return made


def assert_same(kernel, target):
    forms = [kernel, *kernel.alternatives(target.cpu)]
    assert len(forms) > 1, f"{kernel} has a single cut on {target.name}"
    assert len(set(forms)) == len(forms), "two of the forms are the same"
    inputs = inputs_of(kernel)
    functions = [form.tuned(target.cpu) for form in forms]
    found = [call(function, target, inputs, len(kernel.outputs), built)
             for function, built in zip(functions, build(functions, target), strict=True)]  # fmt: skip
    for form, results in zip(forms[1:], found[1:], strict=True):
        assert form.flops == kernel.flops and form.name == kernel.name
        for got, want in zip(results, found[0], strict=True):
            np.testing.assert_allclose(got, want, atol=2e-4, rtol=1e-4, err_msg=str(form))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_cut_computes_the_same(kernel, cpu_target):
    if isinstance(kernel, SoftmaxProjection) and kernel.by_tiles(cpu_target.cpu):
        assert kernel.alternatives(cpu_target.cpu) == [], "in tile registers the head has one cut"
        return
    assert_same(kernel, cpu_target)


def test_packed_weights_keep_their_panels_in_every_cut(cpu_target):
    panel = 2 * cpu_target.cpu.lanes
    kernel = Gemm(150, 307, 200, bias=True, panel=panel)
    assert kernel.inputs[1] == ((packed_size(307, 200, panel),), "float32")
    assert_same(kernel, cpu_target)


def test_the_cut_of_the_model_is_no_alternative(cpu_target):
    gemm = Gemm(800, 1920, 200, trans_a=True)
    cuts = [other.cut for other in gemm.alternatives(cpu_target.cpu)]
    assert chosen_cut(gemm, cpu_target.cpu) not in cuts and len(set(cuts)) == len(cuts) >= 3
    assert all(isinstance(cut, (Plan, TilePlan)) for cut in cuts)


def test_a_given_cut_is_taken(cpu_target):
    gemm = Gemm(800, 1920, 200, trans_a=True)
    for other in gemm.alternatives(cpu_target.cpu):
        assert chosen_cut(other, cpu_target.cpu) == other.cut
