"""Kernels that programs have in common are compiled once in a process, and that shows in nothing but time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compiled_programs import CompiledProgram
from reference_ops import as_float64, run_program

import bucketmod as mx
from bucketmod.compiler import linker
from bucketmod.compiler.kernels import emit
from bucketmod.compiler.lowering import objects
from bucketmod.compiler.pipeline import compile_program
from bucketmod.compiler.program import Program
from bucketmod.export import export_symbol

S = mx.sym
WEIGHTS = ["fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"]


def two_products(rows: int, inputs: int, hidden: int) -> Program:
    """Two layers; their products have different shapes."""
    layer = S.Activation(S.FullyConnected(S.Variable("data"), num_hidden=hidden, name="fc1"), act_type="tanh")
    head = S.SoftmaxOutput(S.FullyConnected(layer, num_hidden=4, name="fc2"), S.Variable("label"), name="softmax")
    shapes = {"data": (rows, inputs), "label": (rows,)}
    return export_symbol(head, shapes, data_names=["data"], label_names=["label"], is_train=False)


@pytest.fixture
def program() -> Program:
    return two_products(6, 5, 9)


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    """As in a process that has compiled nothing."""
    forget()


def forget() -> None:
    emit._function.cache_clear()
    objects._kernel_object.cache_clear()


def library(program: Program, mode: str, target: str = "cpu:x86-64-v3") -> bytes:
    files = compile_program(program, mode, WEIGHTS if mode == "train" else (), target).files
    return next(data for name, data in files.items() if name.startswith("module."))


def test_inference_takes_the_products_of_training(program):
    library(program, "train")
    assert objects._kernel_object.cache_info().misses == 2
    library(program, "infer")
    assert objects._kernel_object.cache_info().misses == 2


def test_buckets_have_what_packs_their_weights_in_common():
    for mode in ("train", "infer"):
        library(two_products(300, 64, 70), mode)
    assert objects._kernel_object.cache_info().misses == 3, "two products, and what packs the larger weight"
    library(two_products(400, 64, 70), "infer")
    assert objects._kernel_object.cache_info().misses == 5, "the products of another bucket"


def test_each_target_has_kernels_of_its_own(program):
    one, other, again = (library(program, "infer", f"cpu:x86-64-v{level}") for level in (3, 4, 3))
    assert one == again != other
    assert objects._kernel_object.cache_info().misses == 4


def test_a_library_does_not_depend_on_what_was_compiled_before(program):
    alone = library(program, "infer")
    forget()
    library(program, "train")
    assert library(program, "infer") == alone


@pytest.mark.parametrize("command", [None, "false"], ids=["no linker", "one that fails"])
def test_one_object_serves_without_a_linker(program, command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(linker, "_LINKERS", (command,) if command else ())
    rng = np.random.default_rng(0)
    values = {port.name: rng.normal(0, 0.5, port.shape).astype(port.dtype) for port in program.inputs}
    (got,) = CompiledProgram(program, tmp_path).run(values).values()
    assert [path.name for path in tmp_path.glob("module.*")] == ["module.o"]
    (want,) = run_program(as_float64(program), {name: v.astype(np.float64) for name, v in values.items()}).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)
