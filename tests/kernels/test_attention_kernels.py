"""Attention and its gradient against NumPy in double precision, for every layout of the operands and kind of mask."""

import re

import numpy as np
import pytest
from kernel_runner import final_form, run_kernel

from bucketmod.compiler.kernels.attention import tile_gradient
from bucketmod.compiler.kernels.attention.attention import Attention
from bucketmod.compiler.kernels.attention.gradient import AttentionGrad
from bucketmod.compiler.kernels.attention.heads import Heads, Mask, Place


def projection(batch, heads, rows, size):
    """q, k and v as parts of one projection [batch, rows, 3 heads size]."""
    width = 3 * heads * size
    q, k, v = (Place(batch * rows * width, part * heads * size, rows * width, width, size) for part in range(3))
    out = Place(batch * rows * heads * size, 0, rows * heads * size, heads * size, size)
    return Heads(batch, heads, rows, rows, size, size, q, k, v, out, size**-0.5)


def time_first(batch, heads, rows, size):
    return Place(rows * batch * heads * size, 0, heads * size, batch * heads * size, size)


def heads_first(batch, heads, rows, size):
    return Place(batch * heads * rows * size, 0, heads * rows * size, size, rows * size)


def separate(batch, heads, queries, keys, size, value_size, place, mask=None):
    """q, k, v and the result each alone in a tensor."""
    shapes = ((queries, size), (keys, size), (keys, value_size), (queries, value_size))
    places = [place(batch, heads, *shape) for shape in shapes]
    return Heads(batch, heads, queries, keys, size, value_size, *places, 0.3, mask)


@pytest.fixture(autouse=True)
def gradients_of_short_rows_in_tiles(monkeypatch):
    """Where there are tile registers, rows that are long enough for the tests are long enough for tiles."""
    monkeypatch.setattr(tile_gradient, "LEAST_ROWS", 112)


CASES = {
    "short rows of odd heads": (projection(13, 3, 7, 20), True),
    "many blocks, the last not full": (projection(1, 2, 83, 24), True),
    "time first, more keys than queries": (separate(2, 3, 19, 45, 33, 9, time_first), False),
    "heads first, one query, mask of keys": (separate(2, 2, 1, 21, 16, 16, heads_first, Mask((2, 1, 21, 1))), False),
    "mask for each head": (separate(2, 2, 18, 37, 8, 40, time_first, Mask((2, 2, 37, 18))), False),
    "scores replaced": (separate(1, 3, 33, 33, 16, 16, time_first, Mask((1, 1, 33, 33), -1e9)), False),
    "whole tiles": (projection(2, 2, 128, 64), True),
    "tiles and rests, mask of keys": (separate(2, 2, 115, 147, 24, 20, time_first, Mask((2, 1, 147, 1))), False),
    "tiles and rests, mask added": (separate(1, 3, 147, 115, 24, 20, heads_first, Mask((1, 3, 115, 147))), False),
    "tiles and rests, scores replaced": (
        separate(2, 1, 115, 115, 40, 56, time_first, Mask((2, 1, 115, 115), -1e9)),
        False,
    ),
}


def rows_of(place, heads, rows, size):
    index = np.ix_(range(heads.batch), range(heads.heads), range(rows), range(size))
    return place.at(*index)


def operands_of(heads):
    keys = heads.keys
    return (heads.q, heads.queries, heads.size), (heads.k, keys, heads.size), (heads.v, keys, heads.value_size)


def operands(heads, joint):
    rng = np.random.default_rng(3)
    draw = lambda size: rng.standard_normal(size).astype(np.float32)  # noqa: E731
    q = draw(heads.q.size)
    inputs = [q, q, q] if joint else [q, draw(heads.k.size), draw(heads.v.size)]
    mask = []
    if heads.mask is not None:
        values = draw(heads.mask.shape)
        mask = [values if heads.mask.fill is None else (values > 0.5).astype(np.float32)]
    return inputs, mask, draw(heads.out.size)


def reference(heads, inputs, mask, dout):
    """out, statistics, dq, dk, dv [batch, heads, rows, values]."""
    p = heads
    q, k, v = (x.astype(np.float64)[rows_of(place, p, n, s)]
               for x, (place, n, s) in zip(inputs, operands_of(p), strict=True))  # fmt: skip
    dout = dout.astype(np.float64)[rows_of(p.out, p, p.queries, p.value_size)]
    scores = q @ k.swapaxes(2, 3) * p.scale
    replaced = np.zeros(scores.shape, bool)
    if mask and p.mask.fill is None:
        scores = scores + mask[0].swapaxes(2, 3)
    elif mask:
        replaced = np.broadcast_to(mask[0].swapaxes(2, 3) != 0, scores.shape)
        scores = np.where(replaced, p.mask.fill, scores)
    top = scores.max(-1, keepdims=True)
    power = np.exp(scores - top)
    total = power.sum(-1, keepdims=True)
    power /= total
    slope = power * (dout @ v.swapaxes(2, 3) - (power * (dout @ v.swapaxes(2, 3))).sum(-1, keepdims=True)) * p.scale
    slope = np.where(replaced, 0, slope)
    statistics = ((top + np.log(total)) / np.log(2))[..., 0]
    return power @ v, statistics, slope @ k, slope.swapaxes(2, 3) @ q, power.swapaxes(2, 3) @ dout


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_and_its_gradient(run, case):
    heads, joint = CASES[case]
    inputs, mask, dout = operands(heads, joint)
    want = reference(heads, inputs, mask, dout)
    out, statistics = run(Attention(heads, training=True), *inputs, *mask)
    np.testing.assert_allclose(out[rows_of(heads.out, heads, heads.queries, heads.value_size)], want[0], atol=3e-6)
    np.testing.assert_allclose(statistics, want[1], atol=3e-6, rtol=1e-5)
    made = run(AttentionGrad(heads, joint), dout, *inputs, out, statistics, *mask)
    made = made * 3 if joint else made
    for gradient, (place, rows, size), expected in zip(made, operands_of(heads), want[2:], strict=True):
        np.testing.assert_allclose(gradient[rows_of(place, heads, rows, size)], expected, atol=2e-5)


def test_long_rows_in_groups(cpu_target):
    """Rows so long that P and dS of all queries would not fit the cache: the gradient takes them in groups."""
    heads = projection(1, 1, 1100, 8)
    inputs, _, dout = operands(heads, True)
    want = reference(heads, inputs, [], dout)
    out, statistics = run_kernel(Attention(heads, training=True), cpu_target, "final", *inputs)
    (made,) = run_kernel(AttentionGrad(heads, True), cpu_target, "final", dout, *inputs, out, statistics)
    np.testing.assert_allclose(out[rows_of(heads.out, heads, 1100, 8)], want[0], atol=3e-6)
    for place, expected in zip((heads.q, heads.k, heads.v), want[2:], strict=True):
        np.testing.assert_allclose(made[rows_of(place, heads, 1100, 8)], expected, atol=2e-5)


@pytest.mark.parametrize("kernel", [Attention, AttentionGrad], ids=["out", "grad"])
def test_memory_grows_with_the_length_and_code_does_not(cpu_target, kernel):
    def text(rows):
        return str(final_form(kernel(projection(1, 1, rows, 16), True), cpu_target).script())

    short, long = text(2048), text(8192)
    assert len(long) < 1.1 * len(short)
    sizes = [int(size) for size in re.findall(r"alloc_buffer\(\((\d+),", long)]
    assert sizes and max(sizes) < 8192 * 8192 // 16


@pytest.mark.parametrize("rows", [3, 115])
def test_scores_of_minus_infinity_are_left_out(cpu_target, rows):
    """A row without any score is not a number, as in the standard's softmax; the others do not notice."""
    heads = separate(1, 1, rows, rows + 2, 24, 24, time_first, Mask((1, 1, rows + 2, rows)))
    inputs, mask, _ = operands(heads, False)
    mask[0][0, 0, 2:, 0] = mask[0][0, 0, :, 1] = -np.inf
    with np.errstate(invalid="ignore"):
        want = reference(heads, inputs, mask, np.zeros(heads.out.size, np.float32))[0][0, 0]
    out, _ = run_kernel(Attention(heads, training=True), cpu_target, "final", *inputs, *mask)
    np.testing.assert_allclose(out.reshape(rows, 24), want, atol=3e-6)
    assert np.isnan(want[1]).all()
