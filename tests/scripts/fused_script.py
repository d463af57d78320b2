"""A language model of fused layers as people wrote it for MXNet 1.x: trained in TN batches, tested with plain cells.

Tests run it with its import of mxnet changed, nothing else.
"""

import argparse
import logging

import mxnet as mx

parser = argparse.ArgumentParser()
parser.add_argument("text")
parser.add_argument("--test", action="store_true", help="score a checkpoint with unfused cells instead of training")
parser.add_argument("--model-prefix", required=True)
parser.add_argument("--load-epoch", type=int, default=0)
parser.add_argument("--num-layers", type=int, default=2)
parser.add_argument("--num-hidden", type=int, default=16)
parser.add_argument("--num-embed", type=int, default=12)
parser.add_argument("--bidirectional", action="store_true")
parser.add_argument("--stack-rnn", action="store_true", help="one fused layer on another")
parser.add_argument("--dropout", type=float, default=0.0)
parser.add_argument("--num-epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--optimizer", default="adam")
parser.add_argument("--kv-store", default="device")
parser.add_argument("--batch-size", type=int, default=8)
args = parser.parse_args()

logging.basicConfig(level=logging.INFO, format="%(message)s")
start_label, invalid_label = 1, 0


def batches(layout):
    with open(args.text) as f:
        lines = [line.split() for line in f]
    cut = len(lines) * 9 // 10
    train, vocab = mx.rnn.encode_sentences(lines[:cut], invalid_label=invalid_label, start_label=start_label)
    valid, _ = mx.rnn.encode_sentences(lines[cut:], vocab=vocab, invalid_label=invalid_label, start_label=start_label)
    iterators = [
        mx.rnn.BucketSentenceIter(part, args.batch_size, buckets=[4, 8], invalid_label=invalid_label, layout=layout)
        for part in (train, valid)
    ]
    return iterators[0], iterators[1], vocab


def training_stack():
    if not args.stack_rnn:
        return mx.rnn.FusedRNNCell(
            args.num_hidden, num_layers=args.num_layers, dropout=args.dropout, mode="lstm",
            bidirectional=args.bidirectional,
        )  # fmt: skip
    stack = mx.rnn.SequentialRNNCell()
    for i in range(args.num_layers):
        stack.add(
            mx.rnn.FusedRNNCell(
                args.num_hidden, num_layers=1, mode="lstm", prefix=f"lstm_{i}", bidirectional=args.bidirectional
            )
        )
        if args.dropout > 0 and i < args.num_layers - 1:
            stack.add(mx.rnn.DropoutCell(args.dropout, prefix=f"lstm_{i}"))
    return stack


def plain_stack():
    """Cells that read the weights of the training stack by the same names."""
    if not args.stack_rnn:
        return mx.rnn.FusedRNNCell(
            args.num_hidden, num_layers=args.num_layers, mode="lstm", bidirectional=args.bidirectional
        ).unfuse()
    stack = mx.rnn.SequentialRNNCell()
    for i in range(args.num_layers):
        cell = mx.rnn.LSTMCell(num_hidden=args.num_hidden, prefix=f"lstm_{i}l0_")
        if args.bidirectional:
            backward = mx.rnn.LSTMCell(num_hidden=args.num_hidden, prefix=f"lstm_{i}r0_")
            cell = mx.rnn.BidirectionalCell(cell, backward, output_prefix=f"bi_lstm_{i}")
        stack.add(cell)
    return stack


def make_sym_gen(stack, vocab, layout):
    def sym_gen(seq_len):
        data = mx.sym.Variable("data")
        label = mx.sym.Variable("softmax_label")
        embed = mx.sym.Embedding(data=data, input_dim=len(vocab) + start_label, output_dim=args.num_embed, name="embed")
        stack.reset()
        outputs, _ = stack.unroll(seq_len, inputs=embed, merge_outputs=True, layout=layout)
        width = args.num_hidden * (2 if args.bidirectional else 1)
        pred = mx.sym.Reshape(outputs, shape=(-1, width))
        pred = mx.sym.FullyConnected(data=pred, num_hidden=len(vocab) + start_label, name="pred")
        label = mx.sym.Reshape(label, shape=(-1,))
        pred = mx.sym.SoftmaxOutput(data=pred, label=label, name="softmax")
        return pred, ("data",), ("softmax_label",)

    return sym_gen


def train():
    train_batches, valid_batches, vocab = batches("TN")
    stack = training_stack()
    model = mx.mod.BucketingModule(
        make_sym_gen(stack, vocab, "TNC"), default_bucket_key=train_batches.default_bucket_key, context=mx.cpu()
    )
    arg_params = aux_params = None
    if args.load_epoch:
        _, arg_params, aux_params = mx.rnn.load_rnn_checkpoint(stack, args.model_prefix, args.load_epoch)
    optimizer_params = {"learning_rate": args.lr, "wd": 0.00001}
    if args.optimizer not in ("adadelta", "adagrad", "rmsprop", "adam"):
        optimizer_params["momentum"] = 0.9
    model.fit(
        train_data=train_batches,
        eval_data=valid_batches,
        eval_metric=mx.metric.Perplexity(invalid_label),
        kvstore=args.kv_store,
        optimizer=args.optimizer,
        optimizer_params=optimizer_params,
        initializer=mx.init.Xavier(factor_type="in", magnitude=2.34),
        arg_params=arg_params,
        aux_params=aux_params,
        begin_epoch=args.load_epoch,
        num_epoch=args.num_epochs,
        batch_end_callback=mx.callback.Speedometer(args.batch_size, 20, auto_reset=False),
        epoch_end_callback=mx.rnn.do_rnn_checkpoint(stack, args.model_prefix, 1),
    )


def test():
    _, valid_batches, vocab = batches("NT")
    stack = plain_stack()
    model = mx.mod.BucketingModule(
        make_sym_gen(stack, vocab, "NTC"), default_bucket_key=valid_batches.default_bucket_key, context=mx.cpu()
    )
    model.bind(valid_batches.provide_data, valid_batches.provide_label, for_training=False)
    _, arg_params, aux_params = mx.rnn.load_rnn_checkpoint(stack, args.model_prefix, args.load_epoch)
    model.set_params(arg_params, aux_params)
    model.score(
        valid_batches,
        mx.metric.Perplexity(invalid_label),
        batch_end_callback=mx.callback.Speedometer(args.batch_size, 2, auto_reset=False),
    )
    score = model.score(valid_batches, mx.metric.Perplexity(invalid_label))
    print(f"test perplexity={dict(score)['perplexity']:f}")


if args.test:
    test()
else:
    train()
