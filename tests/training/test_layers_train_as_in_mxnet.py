"""A few steps of small models with layers and heads of their own kinds give MXNet 1.9.1's parameters and states."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from layer_cases import MODELS, train  # noqa: E402


@pytest.mark.parametrize("model", MODELS)
def test_training_gives_the_numbers_of_mxnet(model: str) -> None:
    with np.load(RECORDED / "layers.npz") as archive:
        expected = {n.removeprefix(f"{model}/"): archive[n] for n in archive.files if n.startswith(f"{model}/")}
    found = train(mx, model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=5e-4, atol=2e-5, err_msg=name)
