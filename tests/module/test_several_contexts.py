"""Modules on several contexts give the numbers recorded from MXNet."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"


def load_cases():
    spec = importlib.util.spec_from_file_location("context_cases", RECORDED / "context_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load_cases()


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED / "contexts.npz") as file:
        index, values = json.loads(str(file["index"])), file["values"]

    def look_up(entry):
        if isinstance(entry, str):
            return entry
        start, shape = entry
        return values[start : start + int(np.prod(shape))].reshape(shape)

    return {case: {name: look_up(entry) for name, entry in names.items()} for case, names in index.items()}


@pytest.mark.parametrize("case", sorted(cases.CASES))
def test_numbers_are_those_of_mxnet(case, recorded):
    found, wanted = cases.run(mx, case), recorded[case]
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        if isinstance(value, str):
            assert found[name] == value, name
        else:
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
