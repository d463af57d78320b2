"""A bucketing script as people wrote it for MXNet 1.x. Tests run it with its import of mxnet changed, nothing else."""

import argparse
import logging

import mxnet as mx

parser = argparse.ArgumentParser()
parser.add_argument("text")
parser.add_argument("prefix")
args = parser.parse_args()

logging.basicConfig(level=logging.INFO, format="%(message)s")
buckets = [4, 8]
start_label, invalid_label = 1, 0

with open(args.text) as f:
    lines = [line.split() for line in f]
cut = len(lines) * 9 // 10
train_sentences, vocab = mx.rnn.encode_sentences(lines[:cut], invalid_label=invalid_label, start_label=start_label)
valid_sentences, _ = mx.rnn.encode_sentences(lines[cut:], vocab=vocab, invalid_label=invalid_label,
                                             start_label=start_label)  # fmt: skip
train = mx.rnn.BucketSentenceIter(train_sentences, 8, buckets=buckets, invalid_label=invalid_label)
valid = mx.rnn.BucketSentenceIter(valid_sentences, 8, buckets=buckets, invalid_label=invalid_label)

stack = mx.rnn.SequentialRNNCell()
for i in range(2):
    stack.add(mx.rnn.LSTMCell(num_hidden=16, prefix=f"lstm_l{i}_"))


def sym_gen(seq_len):
    data = mx.sym.Variable("data")
    label = mx.sym.Variable("softmax_label")
    embed = mx.sym.Embedding(data=data, input_dim=len(vocab) + start_label, output_dim=12, name="embed")
    stack.reset()
    outputs, states = stack.unroll(seq_len, inputs=embed, merge_outputs=True)
    pred = mx.sym.Reshape(outputs, shape=(-1, 16))
    pred = mx.sym.FullyConnected(data=pred, num_hidden=len(vocab) + start_label, name="pred")
    label = mx.sym.Reshape(label, shape=(-1,))
    pred = mx.sym.SoftmaxOutput(data=pred, label=label, name="softmax")
    return pred, ("data",), ("softmax_label",)


model = mx.mod.BucketingModule(sym_gen=sym_gen, default_bucket_key=train.default_bucket_key, context=mx.cpu())
model.fit(
    train_data=train,
    eval_data=valid,
    eval_metric=mx.metric.Perplexity(invalid_label),
    kvstore="device",
    optimizer="sgd",
    optimizer_params={"learning_rate": 0.05, "momentum": 0.9, "wd": 0.00001},
    initializer=mx.init.Xavier(factor_type="in", magnitude=2.34),
    num_epoch=3,
    batch_end_callback=mx.callback.Speedometer(8, 20, auto_reset=False),
    epoch_end_callback=mx.rnn.do_rnn_checkpoint(stack, args.prefix, 1),
)

_, arg_params, aux_params = mx.rnn.load_rnn_checkpoint(stack, args.prefix, 3)
again = mx.mod.BucketingModule(sym_gen, default_bucket_key=valid.default_bucket_key, context=mx.cpu())
again.bind(valid.provide_data, valid.provide_label, for_training=False)
again.set_params(arg_params, aux_params)
score = again.score(valid, mx.metric.Perplexity(invalid_label))
print("checkpoint perplexity={:f}".format(dict(score)["perplexity"]))
