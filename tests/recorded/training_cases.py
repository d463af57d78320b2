"""Fifty training steps over mixed buckets, for whichever package is given: the same parameters, the same batches."""

import numpy as np

VOCABULARY, EMBED, HIDDEN, LAYERS, BATCH = 23, 8, 12, 2, 4
BUCKETS = (3, 5, 8)
STEPS = 50
PADDING = 0

# name -> (gates, cell, layout of the batches, whether padding is left out of the loss)
MODELS = {
    "lstm": (4, "LSTMCell", "NT", True),
    "gru": (3, "GRUCell", "NT", True),
    "fused_lstm": (4, "lstm", "NT", False),
    "fused_gru": (3, "gru", "TN", False),
}
OPTIMIZERS = {
    "sgd": {"learning_rate": 0.2, "momentum": 0.9, "wd": 1e-3},
    "adam": {"learning_rate": 0.004, "wd": 1e-3},
}
CASES = [(model, optimizer) for model in MODELS for optimizer in OPTIMIZERS]


def make_cell(rnn, model):
    """Two layers: unrolled cells in a stack, or one fused operator."""
    _, kind, _, _ = MODELS[model]
    if model.startswith("fused"):
        return rnn.FusedRNNCell(HIDDEN, num_layers=LAYERS, mode=kind, prefix="rnn_")
    cell = rnn.SequentialRNNCell()
    for layer in range(LAYERS):
        cell.add(getattr(rnn, kind)(num_hidden=HIDDEN, prefix="l%d_" % layer))
    return cell


def make_sym_gen(mx, model):
    _, _, layout, ignore = MODELS[model]
    cell = make_cell(mx.rnn, model)
    loss = {"use_ignore": True, "ignore_label": PADDING} if ignore else {}

    def sym_gen(length):
        data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
        embed = mx.sym.Embedding(data=data, input_dim=VOCABULARY, output_dim=EMBED, name="embed")
        cell.reset()
        outputs, _ = cell.unroll(length, inputs=embed, merge_outputs=True, layout=layout + "C")
        scores = mx.sym.FullyConnected(
            data=mx.sym.Reshape(outputs, shape=(-1, HIDDEN)), num_hidden=VOCABULARY, name="pred"
        )
        label = mx.sym.Reshape(label, shape=(-1,))
        return mx.sym.SoftmaxOutput(data=scores, label=label, name="softmax", **loss), ("data",), ("softmax_label",)

    return sym_gen


def parameter_shapes(model):
    gates = MODELS[model][0]
    rows = gates * HIDDEN
    shapes = {"embed_weight": (VOCABULARY, EMBED), "pred_weight": (VOCABULARY, HIDDEN), "pred_bias": (VOCABULARY,)}
    sizes = 0
    for layer in range(LAYERS):
        inputs = EMBED if layer == 0 else HIDDEN
        own = {
            "i2h_weight": (rows, inputs), "h2h_weight": (rows, HIDDEN), "i2h_bias": (rows,), "h2h_bias": (rows,)
        }  # fmt: skip
        sizes += sum(int(np.prod(shape)) for shape in own.values())
        if not model.startswith("fused"):
            shapes.update({"l%d_%s" % (layer, name): shape for name, shape in own.items()})
    if model.startswith("fused"):
        shapes["rnn_parameters"] = (sizes,)
    return shapes


def initial_parameters(model):
    random = np.random.RandomState(11)
    return {
        name: random.uniform(-0.4, 0.4, shape).astype(np.float32)
        for name, shape in sorted(parameter_shapes(model).items())
    }


def batches(mx, layout):
    """Sentences that a model can learn (each word mostly decides the next), cut short by padding at random."""
    random = np.random.RandomState(12)
    keys = [BUCKETS[0]] + [BUCKETS[i] for i in random.randint(0, len(BUCKETS), STEPS - 2)] + [BUCKETS[1]]
    for length in keys:
        words = np.empty((BATCH, length + 1), np.float32)
        words[:, 0] = random.randint(1, VOCABULARY, BATCH)
        for step in range(length):
            surprise = random.randint(1, VOCABULARY, BATCH)
            words[:, step + 1] = np.where(random.rand(BATCH) < 0.2, surprise, words[:, step] * 5 % 22 + 1)
        for row, end in enumerate(random.randint(2, length + 2, BATCH)):
            words[row, end:] = PADDING
        data, label = words[:, :-1], words[:, 1:]
        if layout == "TN":
            data, label = data.T, label.T
        yield mx.io.DataBatch(
            data=[mx.nd.array(data)], label=[mx.nd.array(label)], pad=0, bucket_key=length,
            provide_data=[mx.io.DataDesc("data", data.shape, layout=layout)],
            provide_label=[mx.io.DataDesc("softmax_label", label.shape, layout=layout)],
        )  # fmt: skip


def make_module(mx, model, optimizer=None, default=None):
    """A module bound for its largest bucket (or another one), with the common initial parameters."""
    layout, default = MODELS[model][2], default or max(BUCKETS)
    shape = (BATCH, default) if layout == "NT" else (default, BATCH)
    module = mx.mod.BucketingModule(make_sym_gen(mx, model), default_bucket_key=default, context=mx.cpu())
    module.bind(
        data_shapes=[mx.io.DataDesc("data", shape, layout=layout)],
        label_shapes=[mx.io.DataDesc("softmax_label", shape, layout=layout)],
    )
    module.init_params(arg_params={n: mx.nd.array(v) for n, v in initial_parameters(model).items()}, aux_params={})
    if optimizer is not None:
        module.init_optimizer(optimizer=optimizer, optimizer_params=OPTIMIZERS[optimizer])
    return module


def train(mx, model, optimizer):
    """Array name -> value: output and parameters after the first and the last step, the perplexity of every step."""
    module = make_module(mx, model, optimizer)
    metric = mx.metric.Perplexity(PADDING if MODELS[model][3] else None)
    found, perplexities = {}, []
    for number, batch in enumerate(batches(mx, MODELS[model][2])):
        module.forward(batch, is_train=True)
        output = module.get_outputs()[0].asnumpy().copy()
        module.backward()
        module.update()
        metric.reset()
        module.update_metric(metric, batch.label)
        perplexities.append(metric.get()[1])
        if number in (0, STEPS - 1):
            moment = "first" if number == 0 else "last"
            found[moment + "/output"] = output
            for name, value in module.get_params()[0].items():
                found["%s/%s" % (moment, name)] = value.asnumpy().copy()
    found["perplexity"] = np.array(perplexities)
    return found
