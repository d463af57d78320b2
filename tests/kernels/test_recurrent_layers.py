"""Recurrent layers, forward and gradient: the CPU's time loop and the unrolled form against float64 NumPy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_runner import run_kernel

from bucketmod.compiler.importer.context import ImportContext
from bucketmod.compiler.kernels.recurrence import layers
from bucketmod.compiler.kernels.recurrence.cells import GRU, LSTM, RNN
from bucketmod.compiler.kernels.recurrence.time_loop import ForwardLoop
from bucketmod.compiler.target import host_level, parse_target

tvm = pytest.importorskip("tvm")
from tvm import relax  # noqa: E402

KINDS = ["lstm", "gru", "tanh", "relu"]
FORMS = ["x86-64-v3", "x86-64-v4", "x86-64-v4-amx", "unrolled"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer(kind, x, wi, wh, bi, bh, h, c, reverse):
    """Y, h_n, c_n, gates, cells."""
    steps, hidden = x.shape[0], wh.shape[1]
    y, gates, cells = {}, {}, {}
    for t in reversed(range(steps)) if reverse else range(steps):
        a, p = x[t] @ wi.T + bi, h @ wh.T + bh
        part = [slice(i * hidden, (i + 1) * hidden) for i in range(4)]
        if kind == "lstm":
            i, f, g, o = (a + p)[:, part[0]], (a + p)[:, part[1]], (a + p)[:, part[2]], (a + p)[:, part[3]]
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * np.tanh(c)
            gates[t], cells[t] = np.concatenate([i, f, g, o], 1), c
        elif kind == "gru":
            r, z = sigmoid((a + p)[:, part[0]]), sigmoid((a + p)[:, part[1]])
            o = np.tanh(a[:, part[2]] + r * p[:, part[2]])
            gates[t] = np.concatenate([r, z, o, p[:, part[2]]], 1)
            h = (1 - z) * o + z * h
        else:
            h = np.tanh(a + p) if kind == "tanh" else np.maximum(a + p, 0)
        y[t] = h
    return np.stack([y[t] for t in range(steps)]), h, c, gates, cells


def tensors(kind, steps, batch, inputs, hidden):
    rng = np.random.default_rng(3)
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    shapes = {
        "x": (steps, batch, inputs), "wi": (gates * hidden, inputs), "wh": (gates * hidden, hidden),
        "bi": (gates * hidden,), "bh": (gates * hidden,), "h0": (batch, hidden), "c0": (batch, hidden),
        "dy": (steps, batch, hidden), "dhn": (batch, hidden), "dcn": (batch, hidden),
    }  # fmt: skip
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    values["wi"] /= np.sqrt(inputs)
    values["wh"] /= np.sqrt(hidden)
    return {name: value.astype(np.float32) for name, value in values.items()}


def context_for(form):
    if form == "unrolled":  # what a target gets for which nothing is tuned
        target = SimpleNamespace(cpu=None)
        return target, parse_target("cpu")
    if form > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    return parse_target(f"cpu:{form}"), parse_target(f"cpu:{form}")


def run(form, names, values, emit):
    """Builds a function of the tensors ``names`` whose body ``emit(context, variables)`` makes, and runs it."""
    target, machine = context_for(form)
    bb = relax.BlockBuilder()
    context = ImportContext(target, bb)
    variables = {name: relax.Var(name, relax.TensorType(values[name].shape, "float32")) for name in names}
    with bb.function("main", list(variables.values())):
        with bb.dataflow():
            outputs = [bb.emit_output(value) for value in emit(context, variables) if value is not None]
        bb.emit_func_output(outputs)
    with machine.tvm():
        executable = relax.build(relax.transform.LegalizeOps()(bb.get()), machine.tvm())
    vm = relax.VirtualMachine(executable, tvm.cpu())
    return [t.numpy() for t in vm["main"](*[tvm.runtime.tensor(values[name]) for name in names])]


def emit_forward(kind, reverse, training):
    def emit(context, v):
        common = (v["x"], v["wi"], v["wh"], v["bi"], v["bh"], v["h0"])
        if kind == "lstm":
            return layers.emit_lstm(context, *common, v["c0"], training=training, reverse=reverse)
        if kind == "gru":
            return layers.emit_gru(context, *common, training=training, reverse=reverse)
        return layers.emit_rnn(context, *common, activation=kind, training=training, reverse=reverse)

    return emit


def emit_gradient(kind, reverse, wanted):
    def emit(context, v):
        head = {name: v.get(name) for name in ("dy", "dhn", "dcn")}
        common = (v["x"], v["wi"], v["wh"], v["bi"], v["bh"], v["h0"])
        if kind == "lstm":
            return layers.emit_lstm_grad(context, *common, v["c0"], v["y"], v["gates"], v["cells"], *head.values(),
                                            reverse=reverse, wanted=wanted)  # fmt: skip
        if kind == "gru":
            return layers.emit_gru_grad(context, *common, v["y"], v["gates"], head["dy"], head["dhn"],
                                           reverse=reverse, wanted=wanted)  # fmt: skip
        return layers.emit_rnn_grad(context, *common, v["y"], head["dy"], head["dhn"],
                                       activation=kind, reverse=reverse, wanted=wanted)  # fmt: skip

    return emit


def forward_names(kind):
    return ["x", "wi", "wh", "bi", "bh", "h0"] + ["c0"] * (kind == "lstm")


def stack(by_time, like):
    return np.stack([by_time[t] for t in range(len(like))]) if by_time else None


# steps, batch, inputs, hidden, reverse; the last one is cut for tile registers, where there are some
CASES = [(7, 13, 23, 307, False), (3, 37, 5, 33, True), (3, 23, 5, 99, False)]
SMALLEST = (1, 1, 1, 1, True)


def skip_if_slow(form, sizes):
    if form == "unrolled" and sizes[-1] > 100:
        pytest.skip("TVM's default schedule of products is too slow for this size")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [*CASES, SMALLEST], ids=str)
def test_layer_computes_its_states_in_both_modes(form, kind, case):
    *sizes, reverse = case
    skip_if_slow(form, sizes)
    values = tensors(kind, *sizes)
    wide = [values[name].astype(np.float64) for name in ("x", "wi", "wh", "bi", "bh", "h0", "c0")]
    y, hn, cn, gates, cells = layer(kind, *wide, reverse)
    want = [y, hn] + [cn] * (kind == "lstm")
    kept = [stack(gates, y)] * (kind in ("lstm", "gru")) + [stack(cells, y)] * (kind == "lstm")

    def emit(context, v):
        inference, training = (emit_forward(kind, reverse, mode)(context, v) for mode in (False, True))
        assert len(inference) == len(want) and len(training) == len(want) + len(kept)
        return [*inference, *training]

    for a, b in zip(run(form, forward_names(kind), values, emit), [*want, *want, *kept], strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-5)


def directional(kind, values, name, direction, reverse, heads):
    """Derivative of sum(Y dY) + sum(h_n dh_n) + sum(c_n dc_n) along ``direction`` of one input, by differences."""

    def loss(scale):
        wide = {key: value.astype(np.float64) for key, value in values.items()}
        wide[name] = wide[name] + scale * direction
        y, hn, cn, _, _ = layer(kind, *[wide[n] for n in ("x", "wi", "wh", "bi", "bh", "h0", "c0")], reverse)
        parts = {"dy": y, "dhn": hn, "dcn": cn if kind == "lstm" else np.zeros(1)}
        return sum((parts[head] * wide[head]).sum() for head in heads)

    step = 1e-6
    return (loss(step) - loss(-step)) / (2 * step)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_finite_differences(form, kind, case):
    *sizes, _ = case
    skip_if_slow(form, sizes)
    check_gradients(form, kind, case, ("dy", "dhn", "dcn") if kind == "lstm" else ("dy", "dhn"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["x86-64-v3", "unrolled"])
def test_absent_head_gradients_are_zero(form, kind):
    check_gradients(form, kind, SMALLEST, ("dhn",))
    check_gradients(form, kind, (3, 2, 4, 5, False), ("dy",))


def check_gradients(form, kind, case, heads):
    *sizes, reverse = case
    values = tensors(kind, *sizes)
    wide = [values[n].astype(np.float64) for n in ("x", "wi", "wh", "bi", "bh", "h0", "c0")]
    y, _, _, gates, cells = layer(kind, *wide, reverse)
    values["y"] = y.astype(np.float32)
    names = [*forward_names(kind), "y"]
    if gates:
        values["gates"] = stack(gates, y).astype(np.float32)
        names.append("gates")
    if cells:
        values["cells"] = stack(cells, y).astype(np.float32)
        names.append("cells")
    inputs = forward_names(kind)
    got = run(form, [*names, *heads], values, emit_gradient(kind, reverse, [True] * len(inputs)))
    rng = np.random.default_rng(5)
    for name, gradient in zip(inputs, got, strict=True):
        assert gradient.shape == values[name].shape
        direction = rng.standard_normal(gradient.shape)
        want = directional(kind, values, name, direction, reverse, heads)
        size = np.linalg.norm(gradient.astype(np.float64)) + 1e-3  # the typical size of such a derivative
        assert abs((gradient * direction).sum() - want) < 2e-5 * size, name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tile_registers_serve_two_high_tiles_of_a_layer_that_fits_the_cache(case):
    steps, batch, _, hidden, reverse = case
    loop = ForwardLoop(LSTM, steps, batch, hidden, reverse, True)
    for level in ("x86-64-v4", "x86-64-v4-amx"):
        in_tiles = "tdpbf16ps" in loop.tuned(parse_target(f"cpu:{level}").cpu).script()
        assert in_tiles == (level == "x86-64-v4-amx" and case == CASES[2])


@pytest.mark.parametrize("kind", KINDS)
def test_only_wanted_gradients_are_returned(kind):
    values = tensors(kind, 3, 2, 5, 9)
    y, _, _, gates, cells = layer(kind, *[values[n] for n in ("x", "wi", "wh", "bi", "bh", "h0", "c0")], False)
    values.update(y=y, gates=stack(gates, y), cells=stack(cells, y))
    names = [*forward_names(kind), "y"] + ["gates"] * bool(gates) + ["cells"] * bool(cells) + ["dy"]
    values = {name: values[name].astype(np.float32) for name in names}
    count = 7 if kind == "lstm" else 6
    everything = run("x86-64-v3", names, values, emit_gradient(kind, False, [True] * count))
    for index in range(count):
        wanted = [i == index for i in range(count)]
        (got,) = run("x86-64-v3", names, values, emit_gradient(kind, False, wanted))
        np.testing.assert_array_equal(got, everything[index])


@pytest.mark.parametrize("cell", [LSTM, GRU, RNN["tanh"]], ids=lambda cell: cell.name)
@pytest.mark.parametrize("batch, hidden", [(13, 307), (29, 40), (3, 8)])
def test_a_recurrent_weight_that_was_packed_before_gives_the_same(cpu_target, cell, batch, hidden):
    loop = ForwardLoop(cell, 4, batch, hidden, False, True)
    random = np.random.RandomState(2)
    inputs = [(random.randn(*shape) / np.sqrt(hidden)).astype(np.float32) for shape, _ in loop.inputs]
    split = loop.with_packed_weight(cpu_target.cpu, once=True)
    if split is None:
        pytest.skip("this loop runs in tile registers, which have an order of their own")
    index, pack, rest = split
    assert pack == replace(loop, steps=9, batch=33).with_packed_weight(cpu_target.cpu, once=True)[1]
    (packed,) = run_kernel(pack, cpu_target, "final", inputs[index])
    given = [*inputs[:index], packed, *inputs[index + 1 :]]
    found = run_kernel(rest, cpu_target, "final", *given)
    together = run_kernel(loop, cpu_target, "final", *inputs)
    for one, other in zip(found, together, strict=True):
        np.testing.assert_array_equal(one, other)
