"""What cannot be differentiated is refused with the node's name."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_cases import float_input, forward_program

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.gradient import UnsupportedGradientError, builder, differentiate
from bucketmod.compiler.program import DOMAIN

A = [float_input("a", (3, 4))]
TRUE, FALSE = np.array(True), np.array(False)


@pytest.mark.parametrize(
    ("step", "inputs", "outputs", "constants", "said"),
    [
        (("Sinh", ["a"], ["y"], {}), A, {"y": (3, 4)}, {}, "ai.onnx::Sinh.*no proven gradient"),
        (("LeakyRelu", ["a"], ["y"], {"alpha": -0.5}), A, {"y": (3, 4)}, {}, "alpha is -0.5"),
        (("Max", ["a", "b", "a"], ["y"], {}), [*A, float_input("b", (3, 4))], {"y": (3, 4)}, {}, "3 inputs"),
        (("MatMul", ["a", "b"], ["y"], {}), [*A, float_input("b", (4,))], {"y": (3,)}, {}, "reshape vectors"),
        (("Dropout", ["a", "r", "t"], ["y", "m"], {}), A, {"y": (3, 4), "m": (3, 4)},
         {"r": np.float32(0.5), "t": FALSE}, "training_mode is not true"),
        (("LayerNormalization", ["a", "w"], ["y", "m"], {}), [*A, float_input("w", (4,))], {"y": (3, 4), "m": (3, 1)},
         {}, "Mean or InvStdDev"),
        (("BatchNormalization", ["a", *"sbmv"], [*"ynw"], {"training_mode": 1}),
         [*A, *(float_input(n, (4,)) for n in "sbmv")], {"y": (3, 4)}, {}, "training_mode is 1"),
        ((f"{DOMAIN}::BatchNorm", ["a", "s", "b"], [*"ymiv"], {"epsilon": 1e-3}),
         [*A, *(float_input(n, (4,)) for n in "sb")], {"y": (3, 4), "m": (4,)}, {}, "statistics are differentiated"),
        ((f"{DOMAIN}::RNN", ["a", "wi", "wh", "b", "b", "h"], ["y", "l"], {"hidden_size": 2, "activation": "gelu"}),
         [float_input("a", (3, 4, 1)), float_input("wi", (2, 1)), float_input("wh", (2, 2)), float_input("b", (2,)),
          float_input("h", (4, 2))], {"y": (3, 4, 2), "l": (4, 2)}, {}, "activation is 'gelu'"),
    ],
)  # fmt: skip
def test_refused_with_the_name_of_the_node(step, inputs, outputs, constants, said):
    types = {"m": "bool"} if step[0] == "Dropout" else None
    program = forward_program([step], inputs, outputs, constants, types)
    with pytest.raises(UnsupportedGradientError, match=said) as caught:
        differentiate(program, ["a"])
    assert caught.value.node and caught.value.node in str(caught.value)


def test_axes_that_are_computed_at_run_time():
    axes = float_input("axes", (1,), "data", "int64")
    program = forward_program([("ReduceSum", ["a", "axes"], ["y"], {})], [*A, axes], {"y": (1, 4)})
    with pytest.raises(UnsupportedGradientError, match="computed at run time"):
        differentiate(program, ["a"])


def test_an_operator_without_gradient_that_nothing_differentiates_is_no_matter():
    program = forward_program([("Sinh", ["b"], ["s"], {}), ("Mul", ["s", "a"], ["y"], {})],
                              [*A, float_input("b", (3, 4))], {"y": (3, 4)})  # fmt: skip
    assert differentiate(program, ["a"]).by_role("head_gradient")


def test_names_that_are_no_inputs():
    program = forward_program([("Exp", ["a"], ["y"], {})], A, {"y": (3, 4)})
    with pytest.raises(CompileError, match="'nothing'"):
        differentiate(program, ["nothing"])
    with pytest.raises(CompileError, match="'a' twice"):
        differentiate(program, ["a", "a"])


def test_a_tensor_with_the_name_of_a_gradient():
    program = forward_program([("Exp", ["a"], ["a_gradient"], {})], A, {"a_gradient": (3, 4)})
    with pytest.raises(CompileError, match="'a_gradient'"):
        differentiate(program, ["a"])


def test_an_onnxruntime_without_gradient_builder_says_how_to_mend_it(monkeypatch):
    from onnxruntime.capi import _pybind_state

    monkeypatch.delattr(_pybind_state, "GradientGraphBuilder")
    program = forward_program([("Exp", ["a"], ["y"], {})], A, {"y": (3, 4)})
    with pytest.raises(ImportError, match="onnxruntime-training-cpu==1.19.2"):
        differentiate(program, ["a"])
    assert builder.build_gradient
