"""One or more small graphs for every operator, built with whichever package is given as ``mx``.

``operator_cases(mx)`` gives name -> (symbol, shapes of its inputs, kinds of values of some inputs). Kinds: "normal"
(the default), "positive", "ties" (whole numbers from -2 to 2), "index N" (whole numbers from -1 to N, so that those at
both ends are out of range), "class N" (0 to N - 1), "length N" (1 to N).
"""

import json
import os


def operator_cases(mx):
    cases = {}
    for family in (
        _unary,
        _pairs,
        _scalars,
        _layers,
        _normalizations,
        _shaping,
        _indexing,
        _reductions,
        _heads,
        _creation,
        _fused,
        _cells,
    ):
        family(mx, cases)
    return cases


def recorded_parts():
    """Name of the recorded files -> the function that gives their cases."""
    from more_operator_cases import more_operator_cases

    return {"operators": operator_cases, "more_operators": more_operator_cases}


def all_cases(mx):
    """The cases of all parts, each with automatic names of its own."""
    cases = {}
    for cases_of in recorded_parts().values():
        with mx.name.NameManager():
            cases.update(cases_of(mx))
    return cases


def read_arrays(folder, what):
    """Everything recorded of all parts, by name; ``what`` is "forward" or "gradients"."""
    import numpy as np

    arrays = {}
    for part in recorded_parts():
        with np.load(os.path.join(str(folder), "%s_%s.npz" % (part, what))) as found:
            arrays.update(found)
    return arrays


def read_graphs(folder):
    """The recorded arguments, outputs and nodes of every case."""
    graphs = {}
    for part in recorded_parts():
        with open(os.path.join(str(folder), part + "_graphs.json")) as file:
            graphs.update(json.load(file))
    return graphs


def _inputs(mx):
    return [mx.sym.Variable(name) for name in "abc"]


def _unary(mx, cases):
    a = mx.sym.Variable("a")
    kinds = {name: "positive" for name in ("log", "sqrt", "rsqrt", "reciprocal", "log1p")}
    for name in (
        "negative exp log sqrt rsqrt square abs sign reciprocal sigmoid tanh relu softsign erf sin cos log1p expm1 "
        "floor ceil identity zeros_like ones_like"
    ).split():
        cases[name] = (getattr(mx.sym, name)(a, name="op"), {"a": (3, 4)}, {"a": kinds.get(name, "normal")})
    cases["cast"] = (mx.sym.Cast(mx.sym.Cast(a, dtype="int32"), dtype="float32", name="op"), {"a": (3, 4)}, {})
    cases["clip"] = (mx.sym.clip(a, a_min=-0.5, a_max=0.75, name="op"), {"a": (3, 4)}, {})


def _pairs(mx, cases):
    a, b, c = _inputs(mx)
    same = {"a": (3, 4), "b": (3, 4)}
    for name, symbol in {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "mod": a % b, "equal": a == b, "not_equal": a != b,
        "greater": a > b, "greater_equal": a >= b, "lesser": a < b, "lesser_equal": a <= b,
        "maximum": mx.sym.maximum(a, b), "minimum": mx.sym.minimum(a, b), "hypot": mx.sym.hypot(a, b),
    }.items():  # fmt: skip
        kind = "ties" if name in ("mod", "equal", "not_equal", "greater_equal", "lesser_equal") else "normal"
        cases["pair_" + name] = (symbol, same, {"a": kind, "b": kind})
    cases["pair_power"] = (a**b, same, {"a": "positive"})
    for name in (
        "add sub mul div mod power maximum minimum hypot equal not_equal greater greater_equal lesser lesser_equal"
    ).split():
        symbol = getattr(mx.sym, "broadcast_" + name)(a, b, name="op")
        kinds = {"power": {"a": "positive"}, "mod": {"a": "ties", "b": "ties"}, "equal": {"a": "ties", "b": "ties"}}
        cases["broadcast_" + name] = (symbol, {"a": (2, 1, 4), "b": (1, 3, 4)}, kinds.get(name, {}))
    cases["add_n"] = (mx.sym.add_n(a, b, c, name="op"), {"a": (3, 4), "b": (3, 4), "c": (3, 4)}, {})
    cases["where"] = (mx.sym.where(a, b, c), {"a": (3, 4), "b": (3, 4), "c": (3, 4)}, {"a": "ties"})
    cases["where_rows"] = (mx.sym.where(a, b, c), {"a": (3,), "b": (3, 4), "c": (3, 4)}, {"a": "ties"})


def _scalars(mx, cases):
    a = mx.sym.Variable("a")
    for name, symbol, kind in [
        ("plus", a + 1.5, "normal"), ("minus", a - 1.5, "normal"), ("rminus", 1.5 - a, "normal"),
        ("mul", a * 1.5, "normal"), ("div", a / 1.5, "normal"), ("rdiv", 1.5 / a, "positive"),
        ("mod", a % 2, "ties"), ("mod_negative", a % -1.5, "normal"), ("mod_zero", a % 0, "normal"),
        ("rmod", 1.5 % a, "ties"), ("power", a**2, "normal"), ("root", a**0.5, "positive"), ("neg", -a, "normal"),
        ("maximum", mx.sym.maximum(a, 0.25), "normal"), ("minimum", mx.sym.minimum(a, 0.25), "normal"),
        ("hypot", mx.sym.hypot(a, 2), "normal"), ("equal", a == 1, "ties"), ("not_equal", a != 1, "ties"),
        ("greater", a > 1, "ties"), ("greater_equal", a >= 1, "ties"), ("lesser", a < 1, "ties"),
        ("lesser_equal", a <= 1, "ties"),
    ]:  # fmt: skip
        cases["scalar_" + name] = (symbol, {"a": (3, 4)}, {"a": kind})
    cases["scalar_rpower"] = (mx.sym.pow(2, a), {"a": (3, 4)}, {})


def _layers(mx, cases):
    sym, (a, b, c) = mx.sym, _inputs(mx)
    cases["fully_connected"] = (sym.FullyConnected(a, b, c, num_hidden=5, name="op"), {"a": (3, 4)}, {})
    cases["fully_connected_flattens"] = (sym.FullyConnected(a, num_hidden=5, name="op"), {"a": (3, 2, 2)}, {})
    cases["fully_connected_no_bias"] = (sym.FullyConnected(a, num_hidden=5, no_bias=True, name="op"), {"a": (3, 4)}, {})
    last = sym.FullyConnected(a, num_hidden=5, flatten=False, name="op")
    cases["fully_connected_last_axis"] = (last, {"a": (2, 3, 4)}, {})
    for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign"):
        cases["activation_" + kind] = (sym.Activation(a, act_type=kind, name="op"), {"a": (3, 4)}, {})
    for kind in ("leaky", "elu", "selu", "gelu"):
        cases["leaky_relu_" + kind] = (sym.LeakyReLU(a, act_type=kind, slope=0.3, name="op"), {"a": (3, 4)}, {})
    cases["leaky_relu_prelu"] = (sym.LeakyReLU(a, act_type="prelu", name="op"), {"a": (2, 3, 4)}, {})
    cases["dropout_in_inference"] = (sym.Dropout(a, p=0.5, name="op"), {"a": (3, 4)}, {})
    for axis in (-1, 0, 1):
        norm = sym.LayerNorm(a, axis=axis, eps=1e-3, name="op")
        cases[f"layer_norm_axis{axis}"] = (norm, {"a": (2, 3, 4)}, {})
        for name in ("softmax", "log_softmax", "softmin"):
            cases[f"{name}_axis{axis}"] = (getattr(sym, name)(a, axis=axis, name="op"), {"a": (2, 3, 4)}, {})
    cases["softmax_temperature"] = (sym.softmax(a, temperature=2.5, name="op"), {"a": (2, 3)}, {})
    for ta in (False, True):
        for tb in (False, True):
            shapes = {"a": (4, 3) if ta else (3, 4), "b": (5, 4) if tb else (4, 5)}
            key = f"_{ta:d}{tb:d}"
            cases["dot" + key] = (sym.dot(a, b, transpose_a=ta, transpose_b=tb, name="op"), shapes, {})
            batched = sym.batch_dot(a, b, transpose_a=ta, transpose_b=tb, name="op")
            cases["batch_dot" + key] = (batched, {k: (2, *v) for k, v in shapes.items()}, {})
    cases["dot_of_3d"] = (sym.dot(a, b, name="op"), {"a": (2, 3, 4), "b": (4, 2, 5)}, {})
    cases["dot_of_3d_transposed"] = (
        sym.dot(a, b, transpose_a=True, transpose_b=True, name="op"), {"a": (4, 2, 3), "b": (2, 5, 4)}, {},
    )  # fmt: skip
    cases["dot_of_vectors"] = (sym.dot(a, b, name="op"), {"a": (4,), "b": (4,)}, {})


def _normalizations(mx, cases):
    sym, a = mx.sym, mx.sym.Variable("a")
    kinds = {"op_moving_var": "positive"}
    for key, options, shape in [
        ("", {}, (4, 3)),
        ("_gamma", {"fix_gamma": False, "eps": 1e-2, "momentum": 0.5}, (5, 3, 2)),
        ("_images", {"fix_gamma": False}, (2, 3, 2, 4)),
        ("_last_axis", {"fix_gamma": False, "axis": -1}, (2, 3, 2, 4)),
        ("_first_axis", {"axis": 0}, (3, 4, 2)),
        ("_global", {"fix_gamma": False, "use_global_stats": True}, (2, 3, 2)),
        ("_statistics", {"fix_gamma": False, "output_mean_var": True}, (4, 3, 2)),
        ("_global_statistics", {"use_global_stats": True, "output_mean_var": True}, (4, 3)),
        ("_volumes", {"fix_gamma": False}, (2, 3, 2, 2, 2)),
    ]:
        cases["batch_norm" + key] = (sym.BatchNorm(a, name="op", **options), {"a": shape}, kinds)


def _shaping(mx, cases):
    sym, (a, b, c) = mx.sym, _inputs(mx)
    for key, symbol, shape in [
        ("reshape", sym.Reshape(a, shape=(-1, 4), name="op"), (2, 3, 4)),
        ("reshape_codes", sym.Reshape(a, shape=(-3, -4, -1, 2), name="op"), (2, 3, 4)),
        ("reshape_reverse", sym.Reshape(a, shape=(-1, 0), reverse=True, name="op"), (2, 3, 4)),
        ("flatten", sym.Flatten(a, name="op"), (2, 3, 4)),
        ("transpose", sym.transpose(a, name="op"), (2, 3, 4)),
        ("transpose_axes", sym.transpose(a, axes=(1, 0, 2), name="op"), (2, 3, 4)),
        ("swap_axis", sym.SwapAxis(a, dim1=0, dim2=2, name="op"), (2, 3, 4)),
        ("expand_dims", sym.expand_dims(a, axis=1, name="op"), (2, 3)),
        ("expand_dims_last", sym.expand_dims(a, axis=-1, name="op"), (2, 3)),
        ("squeeze", sym.squeeze(a, name="op"), (2, 1, 3, 1)),
        ("squeeze_axis", sym.squeeze(a, axis=1, name="op"), (2, 1, 3, 1)),
        ("slice_channel", sym.SliceChannel(a, num_outputs=2, axis=-1, name="op"), (2, 3, 4)),
        ("slice_channel_squeeze", sym.SliceChannel(a, num_outputs=3, squeeze_axis=True, name="op"), (2, 3, 4)),
        ("slice_axis", sym.slice_axis(a, axis=1, begin=1, end=3, name="op"), (2, 4)),
        ("slice_axis_negative", sym.slice_axis(a, axis=-1, begin=-3, end=None, name="op"), (2, 4)),
        ("slice", sym.slice(a, begin=(0, 1), end=(2, None), name="op"), (2, 3, 4)),
        ("slice_steps", sym.slice(a, begin=(None, 3), end=(None, None), step=(None, -2), name="op"), (2, 4)),
        ("reverse", sym.reverse(a, axis=1, name="op"), (2, 3, 4)),
        ("reverse_two", sym.reverse(a, axis=(0, 2), name="op"), (2, 3, 4)),
        ("tile", sym.tile(a, reps=(2, 1, 2), name="op"), (2, 3)),
        ("tile_short", sym.tile(a, reps=(2,), name="op"), (2, 3)),
        ("repeat", sym.repeat(a, repeats=2, name="op"), (2, 3)),
        ("repeat_axis", sym.repeat(a, repeats=2, axis=1, name="op"), (2, 3)),
        ("broadcast_to", sym.broadcast_to(a, shape=(2, 0, 4), name="op"), (1, 3, 1)),
        ("broadcast_axis", sym.broadcast_axis(a, axis=(0, 2), size=(2, 4), name="op"), (1, 3, 1)),
    ]:
        cases[key] = (symbol, {"a": shape}, {})
    cases["concat"] = (sym.Concat(a, b, c, name="op"), {"a": (2, 1), "b": (2, 3), "c": (2, 2)}, {})
    cases["concat_axis"] = (sym.Concat(a, b, dim=-1, name="op"), {"a": (2, 3, 1), "b": (2, 3, 2)}, {})
    cases["concat_of_one"] = (sym.Concat(a, dim=0, name="op"), {"a": (2, 3)}, {})
    cases["stack"] = (sym.stack(a, b, name="op"), {"a": (2, 3), "b": (2, 3)}, {})
    cases["stack_axis"] = (sym.stack(a, b, axis=-1, name="op"), {"a": (2, 3), "b": (2, 3)}, {})


def _indexing(mx, cases):
    sym, (a, b, _) = mx.sym, _inputs(mx)
    cases["embedding"] = (sym.Embedding(a, input_dim=5, output_dim=3, name="op"), {"a": (2, 4)}, {"a": "index 5"})
    cases["take"] = (sym.take(a, b, name="op"), {"a": (5, 3), "b": (2, 4)}, {"b": "index 5"})
    cases["take_axis"] = (sym.take(a, b, axis=1, name="op"), {"a": (2, 5, 3), "b": (4,)}, {"b": "index 5"})
    cases["take_wrap"] = (sym.take(a, b, mode="wrap", name="op"), {"a": (5, 3), "b": (6,)}, {"b": "index 5"})
    cases["pick"] = (sym.pick(a, b, name="op"), {"a": (3, 5), "b": (3,)}, {"b": "index 5"})
    kept = sym.pick(a, b, axis=1, keepdims=True, name="op")
    cases["pick_keepdims"] = (kept, {"a": (2, 5, 3), "b": (2, 1, 3)}, {"b": "class 5"})
    cases["one_hot"] = (sym.one_hot(a, depth=5, on_value=2, off_value=-1, name="op"), {"a": (2, 4)}, {"a": "index 5"})


def _reductions(mx, cases):
    a = mx.sym.Variable("a")
    for name in ("sum", "mean", "max", "min", "prod"):
        for key, options in {
            "": {}, "_axis": {"axis": 1}, "_axes": {"axis": (0, -1), "keepdims": True}, "_keep": {"keepdims": True},
            "_exclude": {"axis": 1, "exclude": True},
        }.items():  # fmt: skip
            cases[name + key] = (getattr(mx.sym, name)(a, name="op", **options), {"a": (2, 3, 4)}, {})
    for name in ("argmax", "argmin"):
        for key, options in {"_axis": {"axis": 1}, "_keepdims": {"axis": -1, "keepdims": True}}.items():
            cases[name + key] = (getattr(mx.sym, name)(a, name="op", **options), {"a": (2, 3, 4)}, {"a": "ties"})
        cases[name] = (getattr(mx.sym, name)(a, name="op"), {"a": (3, 4)}, {"a": "ties"})


def _heads(mx, cases):
    sym, (a, b, _) = mx.sym, _inputs(mx)
    for key, options, shapes in [
        ("", {}, {"a": (3, 4), "b": (3,)}),
        ("_probabilities", {}, {"a": (3, 4), "b": (3, 4)}),
        ("_3d", {}, {"a": (2, 3, 4), "b": (2, 3)}),
        ("_preserve_shape", {"preserve_shape": True}, {"a": (2, 3, 4), "b": (2, 3)}),
        ("_multi_output", {"multi_output": True}, {"a": (2, 3, 4), "b": (2, 4)}),
        ("_multi_output_4d", {"multi_output": True}, {"a": (2, 3, 2, 2), "b": (2, 4)}),
        (
            "_options",
            {"grad_scale": 2.0, "use_ignore": True, "ignore_label": 0, "normalization": "valid", "smooth_alpha": 0.1},
            {"a": (3, 4), "b": (3,)},
        ),
    ]:
        cases["softmax_output" + key] = (sym.SoftmaxOutput(a, b, name="op", **options), shapes, {"b": "class 3"})
    for kind in ("Linear", "MAE", "Logistic"):
        for key, options, shapes in [
            ("", {}, {"a": (4, 3), "b": (4, 3)}),
            ("_column", {"grad_scale": 2.5}, {"a": (4, 1), "b": (4,)}),
            ("_3d", {"grad_scale": 0.5}, {"a": (2, 3, 2), "b": (2, 6)}),
        ]:
            head = getattr(sym, kind + "RegressionOutput")(a, b, name="op", **options)
            cases[f"{kind.lower()}_regression{key}"] = (head, shapes, {})
    for key, options in {
        "": {}, "_linear": {"use_linear": True},
        "_options": {"margin": 0.4, "regularization_coefficient": 1.5},
        "_linear_options": {"margin": 0.4, "regularization_coefficient": 1.5, "use_linear": True},
    }.items():  # fmt: skip
        cases["svm" + key] = (sym.SVMOutput(a, b, name="op", **options), {"a": (4, 3), "b": (4,)}, {"b": "class 3"})
    cases["make_loss_layer"] = (sym.MakeLoss(a, grad_scale=2.0, normalization="batch", name="op"), {"a": (3, 4)}, {})
    cases["make_loss"] = (sym.make_loss(a, name="op"), {"a": (3, 4)}, {})
    cases["block_grad"] = (sym.BlockGrad(a, name="op"), {"a": (3, 4)}, {})


def _creation(mx, cases):
    sym, a = mx.sym, mx.sym.Variable("a")
    cases["zeros"] = (a + sym.zeros((0, 4)), {"a": (3, 4)}, {})
    cases["ones"] = (a + sym.ones((3, 4)), {"a": (3, 4)}, {})
    cases["full"] = (a + sym.full((3, 4), 2.5), {"a": (3, 4)}, {})


def _fused(mx, cases):
    """Time 3, batch 2, 4 inputs."""
    for mode in ("rnn_relu", "rnn_tanh", "gru", "lstm"):
        for layers, both in ((1, False), (2, False), (1, True), (2, True)):
            key = f"fused_{mode}_{layers}" + ("_bidirectional" if both else "")
            cell = mx.rnn.FusedRNNCell(
                3, num_layers=layers, mode=mode, bidirectional=both, get_next_state=True, prefix="f_"
            )
            state = cell.begin_state(func=mx.sym.Variable) if both else None
            outputs, states = cell.unroll(3, mx.sym.Variable("a"), begin_state=state, layout="TNC", merge_outputs=True)
            cases[key] = (mx.sym.Group([outputs] + list(states)), {"a": (3, 2, 4)}, {})
    outputs, _ = mx.rnn.FusedRNNCell(3, prefix="f_").unroll(3, mx.sym.Variable("a"), layout="NTC", merge_outputs=False)
    cases["fused_batch_first"] = (mx.sym.Group(outputs), {"a": (2, 3, 4)}, {})


def _cells(mx, cases):
    """Time 3, batch 2, 4 inputs; two layers."""
    rnn, sequence = mx.rnn, mx.sym.Variable("a")
    cells = {
        "rnn": lambda prefix: rnn.RNNCell(3, prefix=prefix),
        "rnn_relu": lambda prefix: rnn.RNNCell(3, activation="relu", prefix=prefix),
        "lstm": lambda prefix: rnn.LSTMCell(3, prefix=prefix),
        "gru": lambda prefix: rnn.GRUCell(3, prefix=prefix),
    }
    for kind, make in cells.items():
        for merge in (True, False):
            stack = rnn.SequentialRNNCell()
            stack.add(make("l0_"))
            stack.add(rnn.DropoutCell(0.3, prefix="drop_"))
            stack.add(make("l1_"))
            outputs, states = stack.unroll(3, sequence, layout="NTC", merge_outputs=merge)
            outputs = [outputs] if merge else outputs
            key = f"unrolled_{kind}_" + ("merged" if merge else "list")
            cases[key] = (mx.sym.Group(list(outputs) + list(states)), {"a": (2, 3, 4)}, {})
        both = rnn.BidirectionalCell(make("left_"), make("right_"))
        outputs, states = both.unroll(3, sequence, layout="TNC", merge_outputs=True)
        cases["bidirectional_" + kind] = (mx.sym.Group([outputs] + states[0] + states[1]), {"a": (3, 2, 4)}, {})
        residual = rnn.ResidualCell(rnn.RNNCell(4, prefix="res_") if kind == "rnn" else make("res_"))
        if kind == "rnn":
            outputs, _ = residual.unroll(3, sequence, merge_outputs=False)
            cases["residual"] = (mx.sym.Group(outputs), {"a": (2, 3, 4)}, {})
    zoneout = rnn.ZoneoutCell(rnn.LSTMCell(3, prefix="z_"), zoneout_outputs=0.5, zoneout_states=0.25)
    outputs, _ = zoneout.unroll(3, sequence, merge_outputs=True)
    cases["zoneout"] = (outputs, {"a": (2, 3, 4)}, {})
    for bidirectional in (False, True):
        fused = rnn.FusedRNNCell(3, num_layers=2, mode="gru", bidirectional=bidirectional, dropout=0.2, prefix="u_")
        outputs, _ = fused.unfuse().unroll(3, sequence, merge_outputs=True)
        key = "unfused_bidirectional" if bidirectional else "unfused"
        cases[key] = (outputs, {"a": (2, 3, 4)}, {})
