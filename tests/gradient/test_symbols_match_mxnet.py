"""Gradients of exported symbols, every operator, against numbers recorded from MXNet 1.9.1."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from reference_ops import run_program

import bucketmod as mx
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.recurrences import find_recurrences, normalize_recurrences
from bucketmod.export import export_symbol

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))
from operator_cases import all_cases, read_arrays  # noqa: E402


@functools.cache
def recorded() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in read_arrays(RECORDED, "gradients").items():
        case, _, name = key.partition("/")
        found.setdefault(case, {})[name] = array
    return found


@functools.cache
def given() -> dict[str, np.ndarray]:
    return read_arrays(RECORDED, "forward")


@functools.cache
def cases():
    return all_cases(mx)


# Where we differ on purpose, and why.
DIFFERENT = {
    "cast": "MXNet rounds the gradient to the integer type on its way back; here whole numbers pass none on",
    "leaky_relu_selu": "MXNet's derivative below zero is not that of its function (it forgets to divide by lambda)",
    **{name: "MXNet's gradient of x % 0 is 1, that of its zero result is 0; for the divisor it is not a number"
       for name in ("pair_mod", "broadcast_mod", "scalar_mod_zero", "scalar_rmod")},
}  # fmt: skip


def head_gradient(shape, index):
    return np.cos(np.arange(int(np.prod(shape))) * 1.7 + index).reshape(shape).astype(np.float32)


def check_against_mxnet(name, passes):
    symbol, shapes, _ = cases()[name]
    expected = {argument: value for argument, value in recorded()[name].items() if not argument.startswith("next/")}
    program = export_symbol(symbol, shapes, data_names=["a"], label_names=[], is_train=True)
    for graph_pass in passes:
        program = graph_pass(program)
    training = differentiate(program, list(expected))
    inputs = {port.name: given()[f"{name}/in/{port.name}"] for port in program.inputs}
    outputs = [port.name for port in program.outputs]
    for port in training.by_role("head_gradient"):
        inputs[port.name] = head_gradient(port.shape, outputs.index(port.of))
    found = run_program(training, inputs)
    for argument, gradient in expected.items():
        np.testing.assert_allclose(
            found[f"{argument}_gradient"], gradient, rtol=2e-4, atol=1e-5, equal_nan=True, err_msg=argument
        )
    check_states(name, training, found)


def check_states(name, training, found):
    """What the step makes of auxiliary states: those without an output stay."""
    made = {port.of: found[port.name] for port in training.outputs if port.role == "auxiliary"}
    for key, after in recorded()[name].items():
        if key.startswith("next/"):
            state = key.removeprefix("next/")
            now = made.get(state, given()[f"{name}/in/{state}"])
            np.testing.assert_allclose(now, after, rtol=1e-5, atol=1e-6, err_msg=state)


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", sorted(set(recorded()) - set(DIFFERENT)))
def test_gradients_equal_those_of_mxnet(name):
    check_against_mxnet(name, [])


LOOPS = ("fused", "unrolled", "unfused", "bidirectional", "residual")
RECURRENT = [name for name in sorted(recorded()) if name.startswith(LOOPS)]


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", RECURRENT)
def test_gradients_of_recurrences_that_were_found(name):
    check_against_mxnet(name, [normalize_recurrences, find_recurrences, fold_constants])
