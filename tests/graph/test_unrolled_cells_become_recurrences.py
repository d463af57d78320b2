"""Unrolled cells are found, and the program gives the same numbers afterwards."""

from __future__ import annotations

import time

import numpy as np
import pytest
from unrolled_cells import Builder, Program, assert_same_numbers, operators, unroll

from bucketmod.compiler.graph.recurrences import find_recurrences

BATCH, SIZE, HIDDEN = 3, 4, 5


def language_model(length, layout="NTC", kind="lstm", layers=2, dropout=False, merge=True, **how) -> Program:
    """Stacked cells, then one fully connected layer on all outputs, or the outputs as they are."""
    b = Builder()
    axis = layout.index("T")
    data = b.input("data", (BATCH, length, SIZE) if axis else (length, BATCH, SIZE), "data")
    xs = b.steps_of(data, axis, length)
    for layer in range(layers):
        if layer and dropout:
            xs = [b.dropout(x) for x in xs]
        xs, _ = unroll(b, kind, f"l{layer}", xs, BATCH, (HIDDEN if layer else SIZE, HIDDEN), **how)
    if not merge:
        return b.program(xs)
    flat = b.op("Reshape", b.merge(xs, axis), b.constant([-1, HIDDEN], np.int64))
    return b.program([b.dense(flat, "pred", 7, HIDDEN)])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_stacked_cells(kind, length, layout, merge):
    before = language_model(length, layout, kind, merge=merge)
    after = find_recurrences(before)
    assert_same_numbers(before, after)
    assert operators(after).count(kind.upper()) == 2
    assert "Tanh" not in operators(after)


def test_as_many_nodes_for_long_sequences_as_for_short_ones():
    short, long = (find_recurrences(language_model(t, dropout=True)) for t in (5, 60))
    assert operators(long) == operators(short)
    assert operators(long) == ["Transpose", "LSTM", "Dropout", "LSTM", "Transpose", "Reshape", "Gemm"]


def test_three_thousand_nodes_take_time_in_proportion():
    seconds = {}
    for length in (11, 110):
        before, times = language_model(length), []
        for _ in range(3):
            start = time.process_time()
            find_recurrences(before)
            times.append(time.process_time() - start)
        seconds[length] = min(times)
    assert len(before.model.graph.node) > 3000
    assert seconds[110] < 40 * seconds[11]  # 10 in proportion, 100 where something is quadratic
