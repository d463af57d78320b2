"""What stands around a recurrence: merged and single outputs, work done at each step, shapes that fit no pattern."""

from __future__ import annotations

import numpy as np
import pytest
from unrolled_cells import Builder, assert_same_numbers, feeds_of, gru_step, lstm_step, operators, rnn_step, run, unroll

from bucketmod.compiler.graph.recurrences import find_recurrences

N, T, SIZE, H = 3, 6, 4, 5


def steps(b: Builder, layout: str = "NTC") -> list[str]:
    axis = layout.index("T")
    return b.steps_of(b.input("data", (N, T, SIZE) if axis else (T, N, SIZE), "data"), axis, T)


def check(b: Builder, outputs: list[str]) -> list[str]:
    before = b.program(outputs)
    after = find_recurrences(before)
    assert_same_numbers(before, after)
    return operators(after)


def unchanged(b: Builder, outputs: list[str]) -> None:
    before = b.program(outputs)
    assert find_recurrences(before) is before


def bidirectional(b: Builder, xs: list[str], kind: str, prefix: str, size: int) -> tuple[list[str], list[str]]:
    left, _ = unroll(b, kind, f"{prefix}_left", xs, N, (size, H))
    right, _ = unroll(b, kind, f"{prefix}_right", xs[::-1], N, (size, H))
    return left, right


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_operands_in_any_order(kind):
    b = Builder()
    xs = steps(b)
    ways: dict[str, dict] = {"lstm": {"swap": True}, "gru": {"form": "neg"}, "rnn": {"activation": "Relu"}}
    outputs, _ = unroll(b, kind, "cell", xs, N, (SIZE, H), **ways[kind])
    assert check(b, [b.merge(outputs, 0)]) == ["Transpose", kind.upper()]


@pytest.mark.parametrize("form", ["sub", "neg", "scalar", "difference"])
def test_ways_to_write_the_update_gate(form):
    b = Builder()
    outputs, _ = unroll(b, "gru", "cell", steps(b, "TNC"), N, (SIZE, H), form=form)
    assert check(b, [b.merge(outputs, 0)]) == ["GRU"]


def test_mixed_operand_order_from_step_to_step():
    b = Builder()
    h, c, outputs = b.zeros(N, H), b.zeros(N, H), []
    for t, x in enumerate(steps(b, "TNC")):
        h, c = lstm_step(b, "cell", x, h, c, (SIZE, H), swap=bool(t % 2))
        outputs.append(h)
    assert check(b, [b.merge(outputs, 0)]) == ["LSTM"]


def test_input_and_state_of_equal_size_are_told_apart():
    b = Builder()
    xs = b.steps_of(b.input("data", (N, T, H), "data"), 1, T)
    states = [b.input("h0", (N, H), "data"), b.input("c0", (N, H), "data")]
    outputs, last = unroll(b, "lstm", "cell", xs, N, (H, H), states, swap=True)
    assert check(b, [b.merge(outputs, 1), *last]).count("LSTM") == 1


def test_states_go_in_and_out():
    b = Builder()
    states = [b.input("h0", (N, H), "state"), b.input("c0", (N, H), "state")]
    _, last = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H), states)
    assert check(b, last) == ["Transpose", "LSTM"]


@pytest.mark.parametrize("places", [[0], [T - 1], [0, T - 1], [1, 3], list(range(T))])
def test_outputs_taken_singly(places):
    b = Builder()
    outputs, _ = unroll(b, "gru", "cell", steps(b), N, (SIZE, H))
    found = check(b, [outputs[p] for p in places])
    assert found.count("GRU") == 1
    assert len(found) <= 2 + 2 * len(places)


def test_merged_and_single_at_once():
    b = Builder()
    outputs, last = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H))
    assert check(b, [b.merge(outputs, 1), outputs[2], *last]).count("LSTM") == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_outputs_joined_along_an_axis_they_have(axis):
    b = Builder()
    outputs, _ = unroll(b, "lstm", "cell", steps(b, "TNC"), N, (SIZE, H))
    joined = b.op("Concat", *outputs, axis=axis)
    assert check(b, [joined]) == (["LSTM", "Reshape"] if axis == 0 else ["LSTM", "Transpose", "Reshape"])


def test_separate_inputs_are_stacked():
    b = Builder()
    xs = [b.input(f"data{t}", (N, SIZE), "data") for t in range(T)]
    outputs, _ = unroll(b, "lstm", "cell", xs, N, (SIZE, H))
    assert check(b, [b.merge(outputs, 0)]) == ["Reshape"] * T + ["Concat", "LSTM"]


def test_same_input_at_each_step():
    b = Builder()
    x = b.input("data", (N, SIZE), "data")
    outputs, _ = unroll(b, "lstm", "cell", [x] * T, N, (SIZE, H))
    assert check(b, [b.merge(outputs, 0)]).count("LSTM") == 1


def test_part_of_a_sequence():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "cell", steps(b)[1:-1], N, (SIZE, H))
    assert check(b, [b.merge(outputs, 0)]).count("LSTM") == 1


def test_embedding_per_step_becomes_one_lookup():
    b = Builder()
    places = b.steps_of(b.input("data", (N, T), "data", 7), 1, T)
    table = b.input("table", (9, SIZE))
    outputs, _ = unroll(b, "lstm", "cell", [b.op("Gather", table, p) for p in places], N, (SIZE, H))
    assert check(b, [b.merge(outputs, 0)]) == ["Transpose", "Gather", "LSTM"]


def test_embedding_of_all_steps_is_looked_up_in_time_order():
    b = Builder()
    rows = b.op("Gather", b.input("table", (9, SIZE)), b.input("data", (N, T), "data", 7))
    outputs, _ = unroll(b, "lstm", "cell", b.steps_of(rows, 1, T), N, (SIZE, H))
    before = b.program([b.merge(outputs, 1)])
    after = find_recurrences(before)
    assert_same_numbers(before, after)
    nodes = {n.op_type: n for n in after.model.graph.node}
    assert nodes["Gather"].input[1] == nodes["Transpose"].output[0] or operators(after)[0] == "Transpose"


def test_work_on_each_output_is_done_once():
    b = Builder()
    outputs, _ = unroll(b, "rnn", "cell", steps(b, "TNC"), N, (SIZE, H))
    scale, shift = b.constant(2.0), b.input("shift", (H,))
    outputs = [b.op("Tanh", b.op("Add", b.op("Mul", h, scale), shift)) for h in outputs]
    outputs = [b.op("Softmax", b.dense(h, "out", 7, H), axis=1) for h in outputs]
    found = check(b, outputs)
    assert [found.count(op) for op in ("RNN", "Mul", "Add", "Tanh", "Gemm", "Softmax", "Split")] == [1] * 7


def test_layer_normalization_and_residual_at_each_step():
    b = Builder()
    xs = b.steps_of(b.input("data", (N, T, H), "data"), 1, T)
    outputs, _ = unroll(b, "lstm", "cell", xs, N, (H, H))
    again = b.steps_of("data", 1, T)
    outputs = [b.op("Add", h, x) for h, x in zip(outputs, again, strict=True)]
    scale, shift = b.input("scale", (H,)), b.input("shift", (H,))
    outputs = [b.op("LayerNormalization", h, scale, shift, axis=-1) for h in outputs]
    assert sorted(check(b, [b.merge(outputs, 0)])) == ["Add", "LSTM", "LayerNormalization", "Transpose"]


def test_dropout_between_layers_and_at_the_end():
    b = Builder()
    xs, _ = unroll(b, "lstm", "l0", steps(b), N, (SIZE, H))
    xs, _ = unroll(b, "lstm", "l1", [b.dropout(x) for x in xs], N, (H, H))
    before = b.program([b.merge([b.dropout(x) for x in xs], 1)])
    after = find_recurrences(before)
    assert operators(after) == ["Transpose", "LSTM", "Dropout", "LSTM", "Dropout", "Transpose"]
    seeds = [a.i for n in after.model.graph.node for a in n.attribute if a.name == "seed"]
    assert len(set(seeds)) == 2
    run(after, feeds_of(after))


def test_one_mask_for_all_steps_is_left_alone():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H))
    outputs = [b.dropout(x) for x in outputs]
    for node in b.nodes:
        if node.op_type == "Dropout":
            node.attribute[0].i = 7
    assert operators(find_recurrences(b.program([b.merge(outputs, 1)]))).count("Dropout") == T


@pytest.mark.parametrize("layout", ["NTC", "TNC"])
def test_bidirectional_with_merged_outputs(layout):
    b = Builder()
    axis = layout.index("T")
    left, right = bidirectional(b, steps(b, layout), "lstm", "bi", SIZE)
    joined = b.op("Concat", b.merge(left, axis), b.reverse(b.merge(right, axis), axis), axis=2)
    found = check(b, [joined])
    assert found.count("LSTM") == 2
    assert "Slice" not in found
    assert len(found) == (6 if axis else 3)


def test_two_bidirectional_layers_step_by_step():
    b = Builder()
    left, right = bidirectional(b, steps(b, "TNC"), "gru", "l0", SIZE)
    xs = [b.op("Concat", a, c, axis=1) for a, c in zip(left, right[::-1], strict=True)]
    left, right = bidirectional(b, xs, "gru", "l1", 2 * H)
    xs = [b.op("Concat", a, c, axis=1) for a, c in zip(left, right[::-1], strict=True)]
    assert sorted(check(b, [b.merge(xs, 0)])) == ["Concat", "Concat"] + ["GRU"] * 4


def test_reversed_merge():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H))
    assert check(b, [b.merge(outputs[::-1], 0)]) == ["Transpose", "LSTM", "Slice"]


def test_layers_joined_by_a_merged_tensor():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "l0", steps(b), N, (SIZE, H))
    outputs, _ = unroll(b, "lstm", "l1", b.steps_of(b.merge(outputs, 1), 1, T), N, (H, H))
    assert check(b, [b.merge(outputs, 1)]) == ["Transpose", "LSTM", "LSTM", "Transpose"]


def test_work_between_layers_on_a_merged_tensor_needs_no_turning():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "l0", steps(b), N, (SIZE, H))
    merged = b.op("Tanh", b.op("Neg", b.merge(outputs, 1)))
    outputs, _ = unroll(b, "lstm", "l1", b.steps_of(merged, 1, T), N, (H, H))
    assert check(b, [b.merge(outputs, 1)]) == ["Transpose", "LSTM", "Neg", "Tanh", "LSTM", "Transpose"]


def test_encoder_and_decoder():
    b = Builder()
    _, last = unroll(b, "lstm", "encoder", steps(b), N, (SIZE, H))
    targets = b.steps_of(b.input("target", (N, 4, SIZE), "data"), 1, 4)
    outputs, _ = unroll(b, "lstm", "decoder", targets, N, (SIZE, H), last)
    assert check(b, [b.merge(outputs, 1)]).count("LSTM") == 2


def test_weights_of_two_branches_shared():
    b = Builder()
    states = [b.input("h0", (N, H), "state"), b.input("c0", (N, H), "state")]
    left, _ = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H), states)
    right, _ = unroll(b, "lstm", "cell", b.steps_of(b.input("other", (N, 3, SIZE), "data"), 1, 3), N, (SIZE, H), states)
    assert check(b, [b.merge(left, 1), b.merge(right, 1)]).count("LSTM") == 2


def test_state_that_branches_ends_the_first_recurrence():
    b = Builder()
    xs = steps(b)
    _, middle = unroll(b, "lstm", "cell", xs[:2], N, (SIZE, H))
    left, _ = unroll(b, "lstm", "cell", xs[2:4], N, (SIZE, H), middle)
    right, _ = unroll(b, "lstm", "cell", xs[4:], N, (SIZE, H), middle)
    assert check(b, [b.merge(left, 1), b.merge(right, 1)]).count("LSTM") == 3


def test_cell_state_seen_from_outside_cuts_the_recurrence():
    b = Builder()
    states, seen = [b.zeros(N, H), b.zeros(N, H)], []
    for x in steps(b):
        states = list(lstm_step(b, "cell", x, states[0], states[1], (SIZE, H)))
        seen.append(states[1])
    assert check(b, [seen[2], states[0]]).count("LSTM") == 2


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_decoder_that_reads_its_own_output(kind):
    b = Builder()
    states = [b.zeros(N, H) for _ in range(2 if kind == "lstm" else 1)]
    x = b.input("first", (N, SIZE), "data")
    for _ in range(4):
        if kind == "lstm":
            states = list(lstm_step(b, "cell", x, states[0], states[1], (SIZE, H)))
        else:
            states = [(gru_step if kind == "gru" else rnn_step)(b, "cell", x, states[0], (SIZE, H))]
        x = b.dense(states[0], "feedback", SIZE, H)
    check(b, [x, states[0]])


def test_weights_that_differ_per_step_stay_unrolled_steps():
    b = Builder()
    h, c = b.zeros(N, H), b.zeros(N, H)
    for t, x in enumerate(steps(b)):
        h, c = lstm_step(b, f"cell{t}", x, h, c, (SIZE, H))
    check(b, [h, c])
    b = Builder()
    h = b.input("h0", (N, H), "data")
    for t, x in enumerate(steps(b)):
        h = rnn_step(b, f"cell{t}", x, h, (SIZE, H))
    unchanged(b, [h])


def test_gate_seen_from_outside_leaves_all_alone():
    b = Builder()
    states = [b.zeros(N, H), b.zeros(N, H)]
    for x in steps(b)[:1]:
        states = list(lstm_step(b, "cell", x, states[0], states[1], (SIZE, H)))
    gate = next(n.output[0] for n in b.nodes if n.op_type == "Sigmoid")
    unchanged(b, [states[0], gate])


def test_gates_in_another_order_are_left_alone():
    b = Builder()
    states = [b.zeros(N, H), b.zeros(N, H)]
    states = list(lstm_step(b, "cell", steps(b)[0], states[0], states[1], (SIZE, H)))
    split = next(n for n in b.nodes if n.op_type == "Split" and len(n.output) == 4)
    split.output[0], split.output[1] = split.output[1], split.output[0]
    unchanged(b, states)


def test_scaled_products_are_left_alone():
    b = Builder()
    states = list(lstm_step(b, "cell", steps(b)[0], b.zeros(N, H), b.zeros(N, H), (SIZE, H)))
    next(n for n in b.nodes if n.op_type == "Gemm").attribute.add(name="alpha", type=1, f=0.5)
    unchanged(b, states)


def test_two_towers_are_no_recurrence():
    b = Builder()
    a, c = b.input("a", (N, H), "data"), b.input("b", (N, H), "data")
    unchanged(b, [rnn_step(b, "tower", a, c, (H, H))])


def test_weights_without_bias_or_lying_the_other_way():
    b = Builder()
    h, outputs = b.zeros(N, H), []
    w, r = b.input("w", (SIZE, H)), b.input("r", (H, H))
    for x in steps(b, "TNC"):
        h = b.op("Tanh", b.op("Add", b.op("Gemm", x, w), b.op("Gemm", h, r)))
        outputs.append(h)
    assert check(b, [b.merge(outputs, 0)]) == ["Transpose", "Transpose", "RNN"]


def test_zoneout_keeps_its_numbers():
    b = Builder()
    mask = b.constant(np.arange(N * H).reshape(N, H) % 2 == 0, np.bool_)
    h, outputs = b.zeros(N, H), []
    for x in steps(b):
        h = b.op("Where", mask, gru_step(b, "cell", x, h, (SIZE, H)), h)
        outputs.append(h)
    found = check(b, [b.merge(outputs, 1)])
    assert found.count("GRU") == T


def test_attention_over_earlier_outputs():
    """Each step of the second layer sees the sum of all outputs of the first up to its time."""
    b = Builder()
    outputs, _ = unroll(b, "lstm", "l0", steps(b), N, (SIZE, H))
    seen, xs = outputs[0], [outputs[0]]
    for h in outputs[1:]:
        seen = b.op("Add", seen, h)
        xs.append(seen)
    outputs, _ = unroll(b, "lstm", "l1", xs, N, (H, H))
    assert check(b, [b.merge(outputs, 1)]).count("LSTM") == 2


def test_loss_per_step():
    b = Builder()
    outputs, _ = unroll(b, "lstm", "cell", steps(b), N, (SIZE, H))
    labels = b.steps_of(b.input("label", (N, T), "label"), 1, T)
    settings: dict = dict(grad_scale=1.0, ignore_label=-1.0, smooth_alpha=0.0, normalization="null")
    settings |= dict.fromkeys(("use_ignore", "multi_output", "preserve_shape", "out_grad"), 0)
    outputs = [
        b.op("SoftmaxOutput", b.dense(h, "pred", 7, H), y, domain="bucketmod", **settings)
        for h, y in zip(outputs, labels, strict=True)
    ]
    assert check(b, outputs).count("SoftmaxOutput") == 1
