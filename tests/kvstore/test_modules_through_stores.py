"""Modules of two contexts: MXNet 1.9.1's parameters, by way of every kind of store and update."""

from __future__ import annotations

import numpy as np
import pytest
from frontend.recorded_cases import FOLDER, recorder

import bucketmod as mx

RECORDER = recorder("kvstore")
RECORDED = np.load(FOLDER / "kvstore.npz")


@pytest.mark.parametrize("case", RECORDER.MODULES)
def test_parameters_follow_mxnet(case):
    np.testing.assert_allclose(RECORDER.run_module(mx, case), RECORDED[f"module {case}"], rtol=2e-4, atol=2e-5)
