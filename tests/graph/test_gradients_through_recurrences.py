"""Finding the recurrence first and differentiating then gives the gradients of the unrolled graph."""

from __future__ import annotations

import numpy as np
import pytest
from reference_ops import as_float64, run_program
from unrolled_cells import Builder, Program, feeds_of, unroll

from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.recurrences import find_recurrences

N, T, SIZE, H = 2, 4, 3, 5


def gradients(program: Program) -> dict[str, np.ndarray]:
    """Of all inputs; head gradients are what their shape makes them, the same for both forms."""
    wrt = [port.name for port in program.inputs]
    trained = as_float64(differentiate(fold_constants(program), wrt))
    return run_program(trained, {k: v.astype(np.float64) for k, v in feeds_of(trained).items()})


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_same_gradients_as_unrolled(kind, backwards):
    b = Builder()
    xs = b.steps_of(b.input("data", (N, T, SIZE), "data"), 1, T)
    states = [b.input(f"state{i}", (N, H), "state") for i in range(2 if kind == "lstm" else 1)]
    outputs, last = unroll(b, kind, "cell", xs[::-1] if backwards else xs, N, (SIZE, H), states)
    scores = [b.op("Tanh", b.dense(h, "out", 3, H)) for h in outputs]
    program = b.program([b.merge(scores, 1), outputs[1], *last[1:]])
    found = find_recurrences(program)
    assert found is not program
    want, got = gradients(program), gradients(found)
    assert set(want) == set(got)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
