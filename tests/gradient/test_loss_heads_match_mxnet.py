"""Outputs and gradients of the loss heads against numbers recorded from MXNet 1.9.1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gradient_cases import float_input, forward_program
from reference_ops import run_program

from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.program import DOMAIN

RECORDED = np.load(Path(__file__).parents[1] / "recorded" / "loss_heads.npz")
CASES = json.loads(str(RECORDED["cases"]))


@pytest.mark.parametrize("index", range(len(CASES)))
def test_head_matches_mxnet(index):
    case = CASES[index]
    data, output, gradient = (RECORDED[f"{index}.{name}"] for name in ("data", "output", "gradient"))
    inputs = {"data": data}
    if case["operator"] == "SoftmaxOutput":
        inputs["label"] = RECORDED[f"{index}.label"]
        defaults = {"multi_output": 0, "preserve_shape": 0, "out_grad": 0}
    else:
        defaults = {}
    options = {k: int(v) if isinstance(v, bool) else v for k, v in {**defaults, **case["attributes"]}.items()}
    program = forward_program(
        [(f"{DOMAIN}::{case['operator']}", list(inputs), ["out"], options)],
        [float_input(name, value.shape, "label" if name == "label" else "data") for name, value in inputs.items()],
        {"out": output.shape},
    )
    training = differentiate(program, list(inputs))
    assert not training.by_role("head_gradient")
    found = run_program(training, inputs)
    np.testing.assert_allclose(found["out"], output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["data_gradient"], gradient, rtol=1e-5, atol=1e-6)
    if "label" in inputs:
        assert not found["label_gradient"].any()
