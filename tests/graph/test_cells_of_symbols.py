"""What the cells of the user's side make, through the exporter, becomes recurrences."""

from __future__ import annotations

import pytest
from unrolled_cells import Program, assert_same_numbers, operators

import bucketmod as mx
from bucketmod.compiler.graph.recurrences import find_recurrences
from bucketmod.export import export_symbol

N, T, CLASSES, EMBED, H = 3, 6, 9, 4, 5


def stacked(kind: str, dropout: float = 0.0):
    cells = mx.rnn.SequentialRNNCell()
    make = {"lstm": mx.rnn.LSTMCell, "gru": mx.rnn.GRUCell, "rnn": mx.rnn.RNNCell}[kind]
    for layer in range(2):
        cells.add(make(H, prefix=f"{kind}_l{layer}_"))
        if dropout:
            cells.add(mx.rnn.DropoutCell(dropout))
    return cells


def export(symbol, is_train: bool = False, **shapes) -> Program:
    known = {"data": (N, T), "softmax_label": (N, T), **shapes}
    known = {name: shape for name, shape in known.items() if name in symbol.list_arguments()}
    return export_symbol(
        symbol, known, data_names=[n for n in known if n != "softmax_label"], label_names=["softmax_label"],
        is_train=is_train,
    )  # fmt: skip


def language_model(cell, length=T, layout="NTC", merge=True, is_train=False, width=H) -> Program:
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    words = mx.sym.Embedding(data, input_dim=CLASSES, output_dim=EMBED, name="embed")
    if layout == "TNC":
        words = mx.sym.SwapAxis(words, dim1=0, dim2=1)
    outputs, _ = cell.unroll(length, inputs=words, layout=layout, merge_outputs=merge)
    flat = mx.sym.Reshape(outputs, shape=(-1, width)) if merge else mx.sym.Concat(*outputs, dim=0)
    scores = mx.sym.FullyConnected(flat, num_hidden=CLASSES, name="pred")
    symbol = mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax")
    return export(symbol, is_train, data=(N, length), softmax_label=(N, length))


def check(before: Program) -> list[str]:
    after = find_recurrences(before)
    assert_same_numbers(before, after)
    return operators(after)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_the_classic_language_model(kind, layout, merge):
    found = check(language_model(stacked(kind), layout=layout, merge=merge))
    assert found.count(kind.upper()) == 2
    assert found.count("Gemm") == 1
    assert len(found) <= 12


def test_length_one():
    assert check(language_model(stacked("lstm"), length=1)).count("LSTM") == 2


def test_training_form_keeps_one_dropout_a_layer_whatever_the_length():
    short, long = (
        operators(find_recurrences(language_model(stacked("lstm", 0.3), length, is_train=True))) for length in (5, 60)
    )
    assert short == long
    assert (long.count("LSTM"), long.count("Dropout")) == (2, 2)


def test_unfused_cell():
    fused = mx.rnn.FusedRNNCell(H, num_layers=2, mode="lstm", bidirectional=True, prefix="f_")
    found = check(language_model(fused.unfuse(), width=2 * H))
    assert (found.count("LSTM"), found.count("Tanh")) == (4, 0)


def test_fused_cell_is_a_recurrence_already():
    before = language_model(mx.rnn.FusedRNNCell(H, num_layers=2, mode="gru", prefix="f_"))
    assert find_recurrences(before) is before


@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("merge", [True, False, None])
def test_outputs_and_states_as_unroll_gives_them(merge, layout):
    shape = (N, T, EMBED) if layout == "NTC" else (T, N, EMBED)
    outputs, states = stacked("lstm").unroll(T, mx.sym.Variable("data"), layout=layout, merge_outputs=merge)
    outputs = list(outputs) if isinstance(outputs, list) else [outputs]
    found = check(export(mx.sym.Group([*outputs, *states]), data=shape))
    assert found.count("LSTM") == 2


def test_list_of_inputs_and_states_given():
    xs = [mx.sym.Variable(f"x{t}") for t in range(3)]
    states = [mx.sym.Variable("h"), mx.sym.Variable("c")]
    outputs, last = mx.rnn.LSTMCell(H, prefix="l_").unroll(3, xs, begin_state=states, merge_outputs=True)
    shapes: dict = dict.fromkeys(("x0", "x1", "x2"), (N, EMBED)) | dict.fromkeys("hc", (N, H))
    assert check(export(mx.sym.Group([outputs, *last]), **shapes)).count("LSTM") == 1


@pytest.mark.parametrize("merge", [True, False])
def test_residual_cells(merge):
    cells = mx.rnn.SequentialRNNCell()
    cells.add(mx.rnn.GRUCell(H, prefix="g0_"))
    cells.add(mx.rnn.ResidualCell(mx.rnn.GRUCell(H, prefix="g1_")))
    outputs, _ = cells.unroll(T, mx.sym.Variable("data"), merge_outputs=merge)
    symbol = outputs if merge else mx.sym.Group(list(outputs))
    found = check(export(symbol, data=(N, T, EMBED)))
    assert found.count("GRU") == 2
    assert found.count("Add") == 1


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
def test_bidirectional_cells(layout, merge):
    cell = mx.rnn.BidirectionalCell(mx.rnn.LSTMCell(H, prefix="l_"), mx.rnn.GRUCell(H, prefix="r_"))
    outputs, _ = cell.unroll(T, mx.sym.Variable("data"), layout=layout, merge_outputs=merge)
    symbol = outputs if merge else mx.sym.Group(list(outputs))
    found = check(export(symbol, data=(N, T, EMBED) if layout == "NTC" else (T, N, EMBED)))
    assert (found.count("LSTM"), found.count("GRU"), found.count("Slice")) == (1, 1, 0)


def test_zoneout_keeps_its_numbers_without_training():
    cell = mx.rnn.ZoneoutCell(mx.rnn.LSTMCell(H, prefix="z_"), zoneout_outputs=0.2, zoneout_states=0.3)
    outputs, _ = cell.unroll(3, mx.sym.Variable("data"), merge_outputs=True)
    check(export(outputs, data=(N, 3, EMBED)))
