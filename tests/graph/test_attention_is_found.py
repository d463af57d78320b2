"""Attention in the forms that symbols and exporters write it in becomes one node that computes the same; what something
else needs, or what would need another gradient, stays as it is."""

import numpy as np
import pytest
from onnx import TensorProto
from unrolled_cells import Builder, assert_same_numbers, operators

from bucketmod.compiler.graph.attention import find_attention
from bucketmod.compiler.graph.constants import fold_constants

N, T, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE


def ints(b, *values):
    return b.constant(values, np.int64)


def reshape(b, x, *shape):
    return b.op("Reshape", x, ints(b, *shape))


def split_heads(b, x, rows=T):
    """[N, rows, WIDTH] -> [N, HEADS, rows, SIZE]."""
    return b.op("Transpose", reshape(b, x, N, rows, HEADS, SIZE), perm=[0, 2, 1, 3])


def joined(b, x, rows=T):
    return reshape(b, b.op("Transpose", x, perm=[0, 2, 1, 3]), N, rows, WIDTH)


def projected(b, name="x", width=WIDTH, rows=T):
    weight = b.input(f"{name}_weight{width}_{len(b.nodes)}", (6, width))
    return b.op("MatMul", b.input(name, (N, rows, 6), "data"), weight)


def scores_of(b, q, k):
    return b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))


def parts(b):
    """q, k and v of one projection, heads apart."""
    qkv = b.op("Split", projected(b, width=3 * WIDTH), outputs=3, axis=2)
    return [split_heads(b, x) for x in qkv]


def of_symbols(b):
    """What batch_dot, transpose and reshape of MXNet's operators give."""
    qkv = b.op("Split", projected(b, width=3 * WIDTH), outputs=3, axis=2)
    q, k, v = (reshape(b, split_heads(b, x), N * HEADS, T, SIZE) for x in qkv)
    scores = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])), b.constant(0.5))
    out = b.op("MatMul", b.op("Softmax", scores, axis=2), v)
    return joined(b, reshape(b, out, N, HEADS, T, SIZE))


def of_chunks(b):
    """PyTorch's chunk, transpose(-2, -1) and division."""
    x = projected(b, width=3 * WIDTH)
    q, k, v = (b.op("Slice", x, ints(b, i * WIDTH), ints(b, (i + 1) * WIDTH), ints(b, 2)) for i in range(3))
    turned = b.op("Transpose", reshape(b, k, N, T, HEADS, SIZE), perm=[0, 2, 3, 1])
    scores = b.op("Div", b.op("MatMul", split_heads(b, q), turned), b.constant(2.0))
    return joined(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), split_heads(b, v)))


def of_scaled_dot_product(b):
    """PyTorch's function for it: both operands are scaled, and a mask is added that leaves later words out."""
    q, k, v = parts(b)
    turned = b.op("Mul", b.op("Transpose", k, perm=[0, 1, 3, 2]), b.constant(0.7))
    scores = b.op("MatMul", b.op("Mul", q, b.constant(0.7)), turned)
    mask = b.constant(np.where(np.tril(np.ones((T, T))), 0, -np.inf))
    return joined(b, b.op("MatMul", b.op("Softmax", b.op("Add", scores, mask), axis=-1), v))


def of_module_time_first(b):
    """nn.MultiheadAttention: time first, parts by index."""
    x = b.op("MatMul", b.input("x", (T, N, 6), "data"), b.input("weight", (6, 3 * WIDTH)))
    x = b.op("Unsqueeze", reshape(b, x, T, N, 3, WIDTH), ints(b, 0))
    x = b.op("Squeeze", b.op("Transpose", x, perm=[3, 1, 2, 0, 4]), ints(b, 3))
    picked = [b.op("Gather", x, b.constant(i, np.int64), axis=0) for i in range(3)]
    rows = [b.op("Transpose", reshape(b, part, T, N * HEADS, SIZE), perm=[1, 0, 2]) for part in picked]
    q, k, v = (reshape(b, part, N, HEADS, T, SIZE) for part in rows)
    out = b.op("MatMul", b.op("Softmax", scores_of(b, b.op("Mul", q, b.constant(0.5)), k), axis=-1), v)
    return reshape(b, b.op("Transpose", out, perm=[2, 0, 1, 3]), T * N, WIDTH)


def of_padding_mask(b):
    """Own projections, a mask of the keys for each sequence by way of masked_fill."""
    q, k, v = (split_heads(b, projected(b)) for _ in range(3))
    padding = b.input("padding", (N, 1, 1, T), "data", TensorProto.INT64)
    scores = b.op("Where", b.op("Equal", padding, b.constant(0, np.int64)), b.constant(-1e9), scores_of(b, q, k))
    return joined(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v))


def of_kept_scores(b):
    """The other way round: the condition says what stays."""
    q, k, v = (split_heads(b, projected(b)) for _ in range(3))
    kept = b.constant(np.tril(np.ones((T, T))), np.bool_)
    scores = b.op("Mul", b.constant(0.5), scores_of(b, q, k))
    scores = b.op("Where", kept, scores, b.constant(-50.0))
    return joined(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v))


def of_two_sequences(b):
    """Keys and values of one projection of another, longer sequence; the mask is for each head."""
    q = split_heads(b, projected(b))
    k, v = b.op("Split", projected(b, "memory", 2 * WIDTH, 7), outputs=2, axis=2)
    mask = b.input("mask", (N * HEADS, T, 7), "data")
    q = reshape(b, q, N * HEADS, T, SIZE)
    k, v = (reshape(b, split_heads(b, part, 7), N * HEADS, 7, SIZE) for part in (k, v))
    scores = b.op("Add", mask, b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])))
    return joined(b, reshape(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v), N, HEADS, T, SIZE))


def of_rotated_heads(b):
    """Something is done to q and k once their heads are apart; the heads stay apart."""
    q, k, v = parts(b)
    q, k = (b.op("Sin", x) for x in (q, k))
    return b.op("Tanh", b.op("MatMul", b.op("Softmax", scores_of(b, q, k), axis=-1), v))


FORMS = [of_symbols, of_chunks, of_scaled_dot_product, of_module_time_first, of_padding_mask, of_kept_scores,
         of_two_sequences, of_rotated_heads]  # fmt: skip
KINDS = {of_scaled_dot_product: "Biased", of_padding_mask: "Masked", of_kept_scores: "Masked",
         of_two_sequences: "Biased"}  # fmt: skip
JOINT = (of_symbols, of_chunks, of_scaled_dot_product, of_module_time_first)


def program_of(form):
    b = Builder()
    return fold_constants(b.program([form(b)]))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_way_to_write_it_is_one_node(form):
    before = program_of(form)
    after = find_attention(before)
    assert_same_numbers(before, after)
    names = operators(after)
    assert names.count(f"{KINDS.get(form, '')}Attention") == 1 and "Softmax" not in names
    node = next(n for n in after.model.graph.node if n.op_type.endswith("Attention"))
    assert next(a.i for a in node.attribute if a.name == "joint") == int(form in JOINT)
    if form in JOINT:
        assert not {"Transpose", "Split", "Slice", "Gather"}.intersection(names)


def probabilities_are_an_output(b):
    q, k, v = parts(b)
    probabilities = b.op("Softmax", scores_of(b, q, k), axis=-1)
    return [b.op("MatMul", probabilities, v), probabilities]


def scores_are_read_twice(b):
    q, k, v = parts(b)
    scores = scores_of(b, q, k)
    return [b.op("MatMul", b.op("Softmax", scores, axis=-1), v), b.op("Exp", scores)]


def probabilities_are_dropped_out(b):
    q, k, v = parts(b)
    return [b.op("MatMul", b.dropout(b.op("Softmax", scores_of(b, q, k), axis=-1)), v)]


def softmax_over_queries(b):
    q, k, v = parts(b)
    return [b.op("MatMul", b.op("Softmax", scores_of(b, q, k), axis=2), v)]


def heads_share_their_keys(b):
    q, _, v = parts(b)
    k = b.op("Transpose", projected(b, width=SIZE), perm=[0, 2, 1])
    return [b.op("MatMul", b.op("Softmax", b.op("MatMul", q, reshape(b, k, N, 1, SIZE, T)), axis=-1), v)]


def mask_is_scaled_too(b):
    q, k, v = parts(b)
    scores = b.op("Add", scores_of(b, q, k), b.input("mask", (T, T), "data"))
    return [b.op("MatMul", b.op("Softmax", b.op("Mul", scores, b.constant(0.5)), axis=-1), v)]


@pytest.mark.parametrize(
    "form",
    [probabilities_are_an_output, scores_are_read_twice, probabilities_are_dropped_out, softmax_over_queries,
     heads_share_their_keys, mask_is_scaled_too],
    ids=lambda form: form.__name__,
)  # fmt: skip
def test_what_does_not_fit_stays(form):
    b = Builder()
    program = fold_constants(b.program(form(b)))
    assert find_attention(program) is program


def test_a_mask_that_is_learned_stays():
    def biased(b):
        q, k, v = parts(b)
        scores = b.op("Add", scores_of(b, q, k), b.op("Tanh", b.input("bias", (HEADS, T, T))))
        return joined(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v))

    program = program_of(biased)
    assert find_attention(program, ["bias"]) is program
    assert "BiasedAttention" in operators(find_attention(program, ["x"]))
