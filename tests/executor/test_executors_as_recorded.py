"""Executors give the numbers that MXNet 1.9.1 gives (tests/recorded/record_executors.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from executor_cases import CASES  # noqa: E402


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_executor_gives_the_numbers_of_mxnet(case) -> None:
    prefix = f"{case.__name__}/"
    with np.load(RECORDED / "executors.npz") as archive:
        expected = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    found = case(mx)
    assert found.keys() == expected.keys() and expected
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)
