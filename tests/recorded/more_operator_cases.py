"""Small graphs for further operators, as in operator_cases.py; recorded into files of their own."""


def more_operator_cases(mx):
    cases = {}
    for family in (_windows, _convolutional_cells):
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
