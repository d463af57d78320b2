"""Every optimizer: MXNet 1.9.1's parameters and states after the same updates, by compiled kernels and by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from recorded_cases import FOLDER, recorder

import bucketmod as mx
from bucketmod.binding import update_kernels

RECORDER = recorder("optimizers")
RECORDED = np.load(FOLDER / "optimizers.npz")


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def attach(request):
    if request.param == "numpy":
        return lambda optimizer: None
    kernels = mx.optimizer.CompiledKernels(update_kernels())

    def attached(optimizer):
        assert optimizer.uses_kernels
        optimizer.kernels = kernels

    return attached


@pytest.mark.parametrize("case", RECORDER.CASES)
def test_parameters_and_states_follow_mxnet(attach, case):
    found, _ = RECORDER.run(mx, *RECORDER.CASES[case], attach=attach)
    np.testing.assert_allclose(found, RECORDED[f"case/{case}"], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("case", RECORDER.HALF)
def test_float16_parameters_with_float32_copies_follow_mxnet(attach, case):
    found, _ = RECORDER.run(mx, *RECORDER.HALF[case], "float16", attach=attach)
    np.testing.assert_allclose(found, RECORDED[f"half/{case}"], rtol=1e-3, atol=1e-5)  # a last bit of float16
