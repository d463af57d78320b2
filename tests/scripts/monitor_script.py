"""Watching weights, outputs and gradients of a perceptron while it trains, as people wrote it for MXNet 1.x.

Tests run it with its import of mxnet changed, nothing else. Nothing in it is left to chance, so that its numbers can be
compared.
"""

import argparse
import logging
import zlib

import mxnet as mx
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--interval", type=int, default=4)
parser.add_argument("--pattern", default=".*")
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(message)s")


@mx.init.register
class ByName(mx.init.Initializer):
    """Weights that depend on the name of the parameter only."""

    def _init_weight(self, name, arr):
        arr[:] = np.random.RandomState(zlib.crc32(str(name).encode())).uniform(-0.5, 0.5, arr.shape)


def norm_stat(d):
    """Root of the mean square of an array."""
    return mx.nd.norm(d) / np.sqrt(d.size)


data = mx.sym.Variable("data")
fc1 = mx.sym.FullyConnected(data, name="fc1", num_hidden=16)
act1 = mx.sym.Activation(fc1, name="relu1", act_type="relu")
fc2 = mx.sym.FullyConnected(act1, name="fc2", num_hidden=8)
act2 = mx.sym.Activation(fc2, name="relu2", act_type="relu")
fc3 = mx.sym.FullyConnected(act2, name="fc3", num_hidden=3)
mlp = mx.sym.SoftmaxOutput(fc3, name="softmax")

random = np.random.RandomState(3)
rows = random.standard_normal((80, 10)).astype(np.float32)
classes = (rows[:, 0] > 0).astype(np.float32) + (rows[:, 1] > 0)
train = mx.io.NDArrayIter(rows, classes, batch_size=8)

model = mx.mod.Module(mlp, context=mx.cpu())
monitor = mx.mon.Monitor(args.interval, norm_stat, pattern=args.pattern, sort=True)
model.fit(
    train,
    monitor=monitor,
    num_epoch=2,
    optimizer="sgd",
    optimizer_params={"learning_rate": 0.2, "momentum": 0.9},
    initializer=ByName(),
    eval_metric="ce",
)
