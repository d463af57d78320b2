"""The gradient of many slices of a tensor costs what the tensor costs, not that times the number of slices."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_cases import check_gradients, float_input, forward_program

X = {"x": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}


def sliced(*bounds: tuple[int, int, int]):
    """A program with one output exp(slice) for each (axis, begin, end)."""
    steps, outputs, constants = [], {}, {}
    for i, (axis, begin, end) in enumerate(bounds):
        constants |= {f"b{i}": np.array([begin]), f"e{i}": np.array([end]), f"a{i}": np.array([axis])}
        steps += [("Slice", ["x", f"b{i}", f"e{i}", f"a{i}"], [f"s{i}"], {}), ("Exp", [f"s{i}"], [f"y{i}"], {})]
        outputs[f"y{i}"] = np.zeros((6, 4))[(slice(None),) * (axis % 2) + (slice(begin, end),)].shape
    return forward_program(steps, [float_input("x", (6, 4))], outputs, constants)


def kinds(training) -> list[str]:
    return [node.op_type for node in training.model.graph.node]


@pytest.mark.parametrize(
    "bounds",
    [
        [(0, 0, 2), (0, 2, 3), (0, 3, 6)],
        [(0, 3, 2**62), (0, -6, -4)],
        [(-1, 1, 2), (1, 3, 4)],
    ],
    ids=["whole", "out of order with a gap", "gaps at axis 1"],
)
def test_disjoint_slices_become_one_split(bounds):
    found = kinds(check_gradients(sliced(*bounds), ["x"], X))
    assert found.count("Split") == 1 and found.count("Concat") == 1
    assert "SliceGrad" not in found and "Sum" not in found and "Add" not in found


def test_slices_that_overlap_or_stand_alone_stay():
    found = kinds(check_gradients(sliced((0, 0, 3), (0, 2, 5)), ["x"], X))
    assert found.count("SliceGrad") == 2 and "Split" not in found
    assert "Split" not in kinds(check_gradients(sliced((0, 1, 3), (1, 0, 2)), ["x"], X))
