"""ONNX's own LSTM, GRU and RNN become ours, with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from unrolled_cells import Builder, assert_same_numbers, operators

from bucketmod.compiler.errors import UnsupportedOperatorError
from bucketmod.compiler.graph.standard_recurrences import normalize_recurrences

T, N, SIZE, H = 4, 3, 5, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrence(b: Builder, kind: str, direction="forward", bias=True, states=True, lengths="", peephole="", **settings):
    """Y, Y_h and, for an LSTM, Y_c of one standard operator on fresh inputs."""
    count, rows = 2 if direction == "bidirectional" else 1, GATES[kind] * H
    inputs = [b.input("x", (T, N, SIZE), "data"), b.input("w", (count, rows, SIZE)), b.input("r", (count, rows, H))]
    inputs += [b.input("b", (count, 2 * rows)) if bias else "", lengths]
    inputs += [b.input("h0", (count, N, H), "state") if states else ""]
    if kind == "LSTM":
        inputs += [b.input("c0", (count, N, H), "state") if states else "", peephole]
    if kind == "GRU":
        settings.setdefault("linear_before_reset", 1)
    return b.op(kind, *inputs, outputs=3 if kind == "LSTM" else 2, hidden_size=H, direction=direction, **settings)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", list(GATES))
def test_all_outputs(kind, direction):
    b = Builder()
    before = b.program(recurrence(b, kind, direction))
    after = normalize_recurrences(before)
    assert_same_numbers(before, after)
    assert {n.domain for n in after.model.graph.node if n.op_type in GATES} == {"bucketmod"}


@pytest.mark.parametrize("kind", list(GATES))
def test_without_bias_and_states(kind):
    b = Builder()
    before = b.program(recurrence(b, kind, bias=False, states=False)[:1])
    assert_same_numbers(before, normalize_recurrences(before))


@pytest.mark.parametrize("activations", [["Relu", "Relu"], ["Tanh", "Relu"]])
def test_activations_of_a_plain_recurrence(activations):
    b = Builder()
    before = b.program(recurrence(b, "RNN", "bidirectional", activations=activations))
    assert_same_numbers(before, normalize_recurrences(before))


def test_the_axis_of_directions_is_not_built_only_to_be_dropped():
    b = Builder()
    y = recurrence(b, "LSTM")[0]
    before = b.program([b.op("Relu", b.op("Squeeze", y, b.constant([1], np.int64)))])
    after = normalize_recurrences(before)
    assert_same_numbers(before, after)
    assert operators(after)[-2:] == ["LSTM", "Relu"]


def test_both_directions_side_by_side():
    b = Builder()
    y = b.op("Transpose", recurrence(b, "GRU", "bidirectional")[0], perm=[0, 2, 1, 3])
    before = b.program([b.op("Relu", b.op("Reshape", y, b.constant([0, 0, -1], np.int64)))])
    after = normalize_recurrences(before)
    assert_same_numbers(before, after)
    assert operators(after)[-3:] == ["GRU", "Concat", "Relu"]
    assert not {"Transpose", "Reshape", "Unsqueeze"}.intersection(operators(after))


def test_lengths_that_are_the_whole_length():
    b = Builder()
    before = b.program(recurrence(b, "LSTM", lengths=b.constant([T] * N, np.int32)))
    assert_same_numbers(before, normalize_recurrences(before))


@pytest.mark.parametrize(
    ("kind", "settings", "what"),
    [
        ("LSTM", {"clip": 1.0}, "clip"),
        ("LSTM", {"input_forget": 1}, "input_forget"),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "HardSigmoid"),
        ("RNN", {"activations": ["Sigmoid"]}, "Sigmoid"),
        ("GRU", {"linear_before_reset": 0}, "linear_before_reset"),
        ("LSTM", {"lengths": "short"}, "sequence_lens"),
        ("LSTM", {"peephole": "p"}, "peephole"),
    ],
)
def test_what_is_refused_names_the_node(kind, settings, what):
    b = Builder()
    if "lengths" in settings:
        settings = {"lengths": b.constant([T, T, 2], np.int32)}
    if "peephole" in settings:
        settings = {"peephole": b.input("p", (1, 3 * H))}
    before = b.program(recurrence(b, kind, **settings)[:1])
    with pytest.raises(UnsupportedOperatorError, match=what) as error:
        normalize_recurrences(before)
    assert error.value.node and error.value.node in str(error.value)


def test_batch_first_is_refused():
    b = Builder()
    inputs = [b.input("x", (N, T, SIZE), "data"), b.input("w", (1, H, SIZE)), b.input("r", (1, H, H))]
    before = b.program([b.op("RNN", *inputs, outputs=2, hidden_size=H, layout=1)[0]])
    with pytest.raises(UnsupportedOperatorError, match="layout=1"):
        normalize_recurrences(before)


def test_programs_without_recurrences_are_returned_as_they_are():
    b = Builder()
    before = b.program([b.op("Relu", b.input("x", (2, 3), "data"))])
    assert normalize_recurrences(before) is before
