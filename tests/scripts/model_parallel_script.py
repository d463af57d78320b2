"""A language model whose layers live on several devices, as people wrote it for MXNet 1.x: each layer has a group of
its own, and group2ctxs says where the groups are.

Tests run it with its import of mxnet changed, nothing else. Nothing in it is left to chance, so that its numbers can be
compared.
"""

import argparse
import logging
import zlib

import mxnet as mx
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--devices", type=int, default=2)
parser.add_argument("--num-layers", type=int, default=2)
parser.add_argument("--num-hidden", type=int, default=12)
parser.add_argument("--seq-len", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--num-epochs", type=int, default=3)
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(message)s")
vocabulary = 13


@mx.init.register
class ByName(mx.init.Initializer):
    """Weights that depend on the name of the parameter only."""

    def _init_weight(self, name, arr):
        arr[:] = np.random.RandomState(zlib.crc32(str(name).encode())).uniform(-0.3, 0.3, arr.shape)


def language_model():
    with mx.AttrScope(ctx_group="embed"):
        words = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=vocabulary, output_dim=8, name="embed")
        steps = list(mx.sym.SliceChannel(words, num_outputs=args.seq_len, axis=1, squeeze_axis=True, name="steps"))
    for layer in range(args.num_layers):
        with mx.AttrScope(ctx_group=f"layer{layer}"):
            cell = mx.rnn.LSTMCell(args.num_hidden, prefix=f"lstm{layer}_")
            steps, _ = cell.unroll(args.seq_len, steps, merge_outputs=False)
    with mx.AttrScope(ctx_group="decode"):
        hidden = mx.sym.Concat(*steps, dim=0)
        scores = mx.sym.FullyConnected(hidden, num_hidden=vocabulary, name="decoder")
        label = mx.sym.Reshape(mx.sym.transpose(mx.sym.Variable("softmax_label")), shape=(-1,))
        return mx.sym.SoftmaxOutput(scores, label, name="softmax")


random = np.random.RandomState(8)
text = np.empty((64, args.seq_len + 1), np.float32)
text[:, 0] = random.randint(0, vocabulary, len(text))
for step in range(args.seq_len):
    text[:, step + 1] = (text[:, step] * 3 + 1 + (random.rand(len(text)) < 0.2)) % vocabulary
train = mx.io.NDArrayIter(text[:, :-1], text[:, 1:], batch_size=args.batch_size)

groups = ["embed"] + [f"layer{layer}" for layer in range(args.num_layers)] + ["decode"]
places = {group: mx.cpu(index * args.devices // len(groups)) for index, group in enumerate(groups)}
model = mx.mod.Module(language_model(), context=mx.cpu(0), group2ctxs=places)
model.bind(data_shapes=train.provide_data, label_shapes=train.provide_label)
model.init_params(ByName())
model.init_optimizer(optimizer="adam", optimizer_params={"learning_rate": 0.02})
metric = mx.metric.Perplexity(ignore_label=None)
for epoch in range(args.num_epochs):
    train.reset()
    metric.reset()
    for batch in train:
        model.forward(batch, is_train=True)
        model.backward()
        model.update()
        labels = [mx.nd.array(batch.label[0].asnumpy().T.reshape(-1))]
        metric.update(labels, model.get_outputs())
    logging.info("Epoch[%d] Train-perplexity=%f", epoch, metric.get()[1])
total = sum(float(np.abs(value.asnumpy()).sum()) for value in model.get_params()[0].values())
print(f"sum of weights={total:f}")
