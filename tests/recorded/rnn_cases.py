"""Cells with their weights, and sentences in batches, for whichever package is given."""

import random

import numpy as np


def cells(rnn):
    """name -> (cell, names and shapes of its packed weights); 2 units, 3 inputs."""
    stack = rnn.SequentialRNNCell()
    stack.add(rnn.LSTMCell(2, prefix="l0_"))
    stack.add(rnn.DropoutCell(0.5))
    stack.add(rnn.BidirectionalCell(rnn.GRUCell(2, prefix="l1_"), rnn.RNNCell(2, prefix="r1_")))

    def plain(prefix, gates, inputs=3):
        rows = 2 * gates
        return {
            prefix + "i2h_weight": (rows, inputs), prefix + "i2h_bias": (rows,), prefix + "h2h_weight": (rows, 2),
            prefix + "h2h_bias": (rows,),
        }  # fmt: skip

    found = {
        "rnn": (rnn.RNNCell(2), plain("rnn_", 1)),
        "lstm": (rnn.LSTMCell(2), plain("lstm_", 4)),
        "gru": (rnn.GRUCell(2), plain("gru_", 3)),
        "stack": (stack, {**plain("l0_", 4), **plain("l1_", 3, 2), **plain("r1_", 1, 2)}),
        "residual": (rnn.ResidualCell(rnn.GRUCell(2)), plain("gru_", 3)),
    }
    for mode, gates in (("rnn_relu", 1), ("rnn_tanh", 1), ("lstm", 4), ("gru", 3)):
        for layers, directions in ((1, 1), (2, 1), (2, 2)):
            cell = rnn.FusedRNNCell(2, num_layers=layers, mode=mode, bidirectional=directions == 2)
            rows = 2 * gates * directions
            size = rows * (3 + 2 + 2) + (layers - 1) * rows * (2 * directions + 2 + 2)
            found[f"fused_{mode}_{layers}_{directions}"] = (cell, {mode + "_parameters": (size,)})
    return found


def numbered(shapes):
    """Arrays that count on from one to the next, and one array that no cell knows."""
    arrays, start = {"other": np.array([7.0], np.float32)}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    return arrays


def unpacked(package):
    found = {}
    for name, (cell, shapes) in cells(package.rnn).items():
        arrays = {key: package.nd.array(value) for key, value in numbered(shapes).items()}
        found[name] = {key: value.asnumpy().tolist() for key, value in cell.unpack_weights(arrays).items()}
    return found


def sentences():
    """Words of a made-up language."""
    source = random.Random(5)
    words = "ba be bi bo bu da de di do du".split()
    return [[source.choice(words) for _ in range(source.randint(1, 9))] for _ in range(60)]


def batches(package, **options):
    random.seed(3)
    np.random.seed(4)
    coded, vocabulary = package.rnn.encode_sentences(sentences(), invalid_label=0, start_label=1)
    source = package.rnn.BucketSentenceIter(coded, 4, invalid_label=0, **options)
    found = {
        "vocabulary": vocabulary,
        "default": source.default_bucket_key,
        "buckets": list(source.buckets),
        "provide": [[d.name, list(d.shape), d.layout] for d in source.provide_data + source.provide_label],
        "epochs": [],
    }
    for _ in range(2):
        found["epochs"].append(
            [
                [
                    b.bucket_key,
                    b.data[0].asnumpy().tolist(),
                    b.label[0].asnumpy().tolist(),
                    list(b.provide_label[0].shape),
                ]
                for b in source
            ]
        )
        source.reset()
    return found


OPTIONS = {"given": {"buckets": [8, 3, 5]}, "automatic": {}, "time_major": {"buckets": [9], "layout": "TN"}}
