"""Small graphs for further operators, as in operator_cases.py; recorded into files of their own."""


def more_operator_cases(mx):
    cases = {}
    for family in (
        _windows,
        _convolutional_cells,
        _elements,
        _normalizations,
        _sequences,
        _alignment,
        _picks,
    ):
        family(mx, cases)
    return cases


def _convolutional_cells(mx, cases):
    for kind in ("ConvRNNCell", "ConvLSTMCell", "ConvGRUCell"):
        for key, options in {
            "": {},
            "_tanh": {"h2h_kernel": (3, 1), "h2h_dilate": (1, 2), "i2h_stride": (2, 1), "activation": "tanh"},
        }.items():
            cell = getattr(mx.rnn, kind)((1, 2, 4, 5), num_hidden=2, prefix="c_", **options)
            outputs, states = cell.unroll(2, mx.sym.Variable("a"), layout="NTC", merge_outputs=False)
            # the first state is the last output: given twice, MXNet's gradient of a convolution is not that of finite
            # differences
            cases[kind.lower() + key] = (mx.sym.Group(list(outputs) + list(states[1:])), {"a": (1, 2, 2, 4, 5)}, {})


def _windows(mx, cases):
    sym, a = mx.sym, mx.sym.Variable("a")
    image, odd = (2, 3, 5, 6), (2, 2, 7, 8)
    for key, symbol, shape in [
        ("convolution", sym.Convolution(a, kernel=(3, 2), num_filter=4, name="op"), image),
        (
            "convolution_stride",
            sym.Convolution(a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=3, no_bias=True, name="op"), odd,
        ),
        (
            "convolution_dilate",
            sym.Convolution(a, kernel=(2, 3), dilate=(2, 1), pad=(0, 2), stride=(1, 3), num_filter=2, name="op"), image,
        ),
        ("convolution_groups", sym.Convolution(a, kernel=(3, 3), num_filter=6, num_group=3, name="op"), image),
        ("convolution_1x1", sym.Convolution(a, kernel=(1, 1), num_filter=4, name="op"), image),
        ("convolution_1d", sym.Convolution(a, kernel=(3,), pad=(1,), stride=(2,), num_filter=4, name="op"), (2, 3, 9)),
        ("deconvolution", sym.Deconvolution(a, kernel=(3, 3), num_filter=2, name="op"), (2, 3, 3, 4)),
        (
            "deconvolution_stride",
            sym.Deconvolution(
                a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), adj=(1, 1), num_filter=2, no_bias=False, name="op"
            ),
            (2, 3, 3, 4),
        ),
        ("deconvolution_groups", sym.Deconvolution(a, kernel=(2, 2), stride=(2, 2), num_filter=4, num_group=2,
                                                   name="op"), (2, 4, 3, 3)),
        ("pooling_max", sym.Pooling(a, kernel=(2, 2), stride=(2, 2), name="op"), image),
        ("pooling_max_pad", sym.Pooling(a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="op"), odd),
        ("pooling_max_full", sym.Pooling(a, kernel=(3, 2), stride=(2, 2), pooling_convention="full", name="op"), image),
        ("pooling_avg", sym.Pooling(a, kernel=(2, 3), pool_type="avg", name="op"), image),
        ("pooling_avg_pad", sym.Pooling(a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", name="op"), odd),
        (
            "pooling_avg_without_pad",
            sym.Pooling(a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False,
                        name="op"), odd,
        ),
        (
            "pooling_avg_full",
            sym.Pooling(a, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", pooling_convention="full",
                        name="op"), (1, 2, 4, 6),
        ),
        ("pooling_sum", sym.Pooling(a, kernel=(2, 2), pool_type="sum", name="op"), image),
        ("pooling_global_max", sym.Pooling(a, global_pool=True, name="op"), image),
        ("pooling_global_avg", sym.Pooling(a, kernel=(2, 2), pool_type="avg", global_pool=True, name="op"), image),
        ("pooling_1d", sym.Pooling(a, kernel=(3,), stride=(2,), name="op"), (2, 3, 8)),
        ("up_sampling", sym.UpSampling(a, scale=2, sample_type="nearest", name="op"), (1, 2, 2, 3)),
        (
            "pad",
            sym.Pad(a, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 0, 3), constant_value=1.5, name="op"),
            (1, 2, 2, 3),
        ),
        ("pad_edge", sym.Pad(a, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 0, 3), name="op"), (1, 2, 2, 3)),
        ("pad_reflect", sym.Pad(a, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 3, 0), name="op"), (1, 2, 3, 4)),
    ]:  # fmt: skip
        cases[key] = (symbol, {"a": shape}, {})
    cases["pooling_ties"] = (sym.Pooling(a, kernel=(3, 3), stride=(1, 2), name="op"), {"a": odd}, {"a": "ties"})


def _elements(mx, cases):
    a, b = mx.sym.Variable("a"), mx.sym.Variable("b")
    kinds = {name: "positive" for name in ("log2", "log10", "cbrt", "rcbrt")}
    for name in (
        "round rint fix trunc cbrt rcbrt log2 log10 tan sinh cosh arcsinh degrees radians logical_not hard_sigmoid"
    ).split():
        cases[name] = (getattr(mx.sym, name)(a, name="op"), {"a": (3, 4)}, {"a": kinds.get(name, "normal")})
    cases["dropout_axes_in_inference"] = (mx.sym.Dropout(a, p=0.5, axes=(1,), name="op"), {"a": (3, 4)}, {})
    cases["arange"] = (a + mx.sym.arange(2, 10, 2, name="from"), {"a": (4,)}, {})
    cases["arange_repeat"] = (a * mx.sym.arange(3, repeat=2, name="from"), {"a": (6,)}, {})
    cases["methods"] = (a.norm(axis=1).slice_like(b).round() + b.trunc().log10(), {"a": (3, 4), "b": (2,)},
                        {"b": "class 9"})  # fmt: skip
    cases["arccosh"] = (mx.sym.arccosh(a + 1, name="op"), {"a": (3, 4)}, {"a": "positive"})
    cases["arctanh"] = (mx.sym.arctanh(a / 2.5, name="op"), {"a": (3, 4)}, {"a": "positive"})
    cases["round_halves"] = (mx.sym.round(a * 0.5) + 10 * mx.sym.rint(a * 0.5), {"a": (3, 4)}, {"a": "ties"})
    cases["smooth_l1"] = (mx.sym.smooth_l1(a, scalar=1.5, name="op"), {"a": (3, 4)}, {})
    for name in ("and", "or", "xor"):
        symbol = getattr(mx.sym, "broadcast_logical_" + name)(a, b, name="op")
        cases["logical_" + name] = (symbol, {"a": (2, 1, 4), "b": (1, 3, 4)}, {"a": "ties", "b": "ties"})


def _normalizations(mx, cases):
    sym, a = mx.sym, mx.sym.Variable("a")
    cases["instance_norm"] = (sym.InstanceNorm(a, eps=1e-2, name="op"), {"a": (2, 3, 2, 4)}, {})
    cases["group_norm"] = (sym.GroupNorm(a, num_groups=2, name="op"), {"a": (2, 4, 3)}, {})
    for mode in ("instance", "channel", "spatial"):
        cases["l2_normalization_" + mode] = (sym.L2Normalization(a, mode=mode, name="op"), {"a": (2, 3, 2, 2)}, {})
    cases["lrn"] = (sym.LRN(a, nsize=3, alpha=0.4, knorm=1.5, name="op"), {"a": (2, 5, 2, 3)}, {})
    # of more than two axes MXNet takes the last one forward, and all but the first one backward
    cases["softmax_activation_instance"] = (sym.SoftmaxActivation(a, name="op"), {"a": (2, 3)}, {})
    cases["softmax_activation_channel"] = (sym.SoftmaxActivation(a, mode="channel", name="op"), {"a": (2, 3, 2)}, {})
    cases["norm"] = (sym.norm(a, name="op"), {"a": (2, 3)}, {})
    cases["norm_axis"] = (sym.norm(a, axis=1, keepdims=True, name="op"), {"a": (2, 3, 4)}, {})
    cases["norm_one"] = (sym.norm(a, ord=1, axis=(0, 2), name="op"), {"a": (2, 3, 4)}, {})
    for name in ("nansum", "nanprod"):
        cases[name] = (getattr(sym, name)(a, axis=1, name="op"), {"a": (2, 3, 4)}, {})


def _sequences(mx, cases):
    sym, (a, b) = mx.sym, [mx.sym.Variable(name) for name in "ab"]
    lengths = sym.Cast(b, dtype="int32")
    for axis, shape in ((-1, (2, 3)), (1, (2, 4))):
        found = sym.softmax(a, lengths, use_length=True, axis=axis, name="op")
        cases["softmax_lengths_axis%d" % axis] = (found, {"a": (2, 3, 4), "b": shape}, {"b": "length 3"})
    for name in ("SequenceMask", "SequenceLast", "SequenceReverse"):
        operator = getattr(sym, name)
        key = "sequence_" + name[8:].lower()
        cases[key + "_whole"] = (operator(a, name="op"), {"a": (3, 2, 4)}, {})
        lengths = operator(a, b, use_sequence_length=True, name="op")
        cases[key] = (lengths, {"a": (4, 3, 2), "b": (3,)}, {"b": "length 4"})
    value = sym.SequenceMask(a, b, use_sequence_length=True, value=-1.5, axis=1, name="op")
    cases["sequence_mask_axis"] = (value, {"a": (3, 4), "b": (3,)}, {"b": "length 4"})
    last = sym.SequenceLast(a, b, use_sequence_length=True, axis=1, name="op")
    cases["sequence_last_axis"] = (last, {"a": (3, 4, 2), "b": (3,)}, {"b": "length 4"})


def _alignment(mx, cases):
    sym, (a, b) = mx.sym, [mx.sym.Variable(name) for name in "ab"]
    for key, symbol, shape, like in [
        ("slice_like", sym.slice_like(a, b, name="op"), (4, 5), (2, 3)),
        ("slice_like_axes", sym.slice_like(a, b, axes=(1,), name="op"), (4, 5), (2, 3)),
        ("broadcast_like", sym.broadcast_like(a, b, name="op"), (1, 5), (2, 5)),
        ("broadcast_like_axes", sym.broadcast_like(a, b, lhs_axes=(0,), rhs_axes=(1,), name="op"), (1, 5), (7, 2)),
        ("reshape_like", sym.reshape_like(a, b, name="op"), (6, 5), (2, 3, 5)),
        (
            "reshape_like_part",
            sym.reshape_like(a, b, lhs_begin=0, lhs_end=1, rhs_begin=1, rhs_end=3, name="op"), (30, 2), (4, 2, 15, 5),
        ),
        ("crop_like", sym.Crop(a, b, offset=(1, 2), name="op"), (1, 2, 6, 7), (1, 1, 3, 2)),
    ]:  # fmt: skip
        cases[key] = (symbol, {"a": shape, "b": like}, {})
    cases["crop_centre"] = (sym.Crop(a, center_crop=True, h_w=(3, 2), name="op"), {"a": (1, 2, 6, 7)}, {})
    cases["depth_to_space"] = (sym.depth_to_space(a, block_size=2, name="op"), {"a": (1, 8, 2, 3)}, {})
    cases["space_to_depth"] = (sym.space_to_depth(a, block_size=2, name="op"), {"a": (1, 2, 4, 6)}, {})


def _picks(mx, cases):
    sym, (a, b) = mx.sym, [mx.sym.Variable(name) for name in "ab"]
    whole = sym.Cast(b, dtype="int32")
    cases["batch_take"] = (sym.batch_take(a, whole, name="op"), {"a": (3, 5), "b": (3,)}, {"b": "class 5"})
    cases["gather_nd"] = (sym.gather_nd(a, b, name="op"), {"a": (3, 4, 2), "b": (2, 5)}, {"b": "class 3"})
    cases["gather_nd_all"] = (sym.gather_nd(a, b, name="op"), {"a": (3, 4), "b": (2, 5)}, {"b": "class 3"})
    cases["argmax_channel"] = (sym.argmax_channel(a, name="op"), {"a": (2, 3, 4)}, {"a": "ties"})
    cases["softmax_cross_entropy"] = (sym.softmax_cross_entropy(a, b, name="op"), {"a": (3, 4), "b": (3,)},
                                      {"b": "class 4"})  # fmt: skip
