"""A classifier of handwritten-like digits as people wrote it for MXNet 1.x. Tests run it with its import of mxnet
changed, nothing else."""

import argparse
import logging

import mxnet as mx
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--network", choices=["mlp", "batch_norm", "lenet"], default="mlp")
parser.add_argument("--prefix", required=True)
parser.add_argument("--num-epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=20)
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(message)s")

SEGMENTS = [
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
]


def draw(digit, noise):
    """A digit of seven segments on 12 x 12 pixels, shifted and noisy."""
    image = np.zeros((12, 12), np.float32)
    top, left = noise.randint(0, 3), noise.randint(0, 5)
    lines = [(0, 0, 1, 5), (0, 0, 5, 1), (0, 4, 5, 1), (4, 0, 1, 5), (4, 0, 5, 1), (4, 4, 5, 1), (8, 0, 1, 5)]
    for index, (row, column, height, width) in enumerate(lines):
        if SEGMENTS[digit][index] == "1":
            image[top + row : top + row + height, left + column : left + column + width] = 1
    return image + noise.normal(0, 0.15, image.shape)


def digits(count, seed):
    noise = np.random.RandomState(seed)
    labels = noise.randint(0, 10, count)
    images = np.stack([draw(label, noise) for label in labels])[:, None]
    return images.astype(np.float32), labels.astype(np.float32)


def mlp(data):
    net = mx.sym.Flatten(data=data)
    net = mx.sym.FullyConnected(data=net, name="fc1", num_hidden=64)
    net = mx.sym.Activation(data=net, name="relu1", act_type="relu")
    net = mx.sym.FullyConnected(data=net, name="fc2", num_hidden=32)
    net = mx.sym.Activation(data=net, name="relu2", act_type="relu")
    return mx.sym.FullyConnected(data=net, name="fc3", num_hidden=10)


def batch_norm(data):
    net = mx.sym.BatchNorm(data=data, name="bn_data")
    net = mx.sym.FullyConnected(data=mx.sym.Flatten(net), name="fc1", num_hidden=48, no_bias=True)
    net = mx.sym.LeakyReLU(data=mx.sym.BatchNorm(net, fix_gamma=False, name="bn1"), slope=0.1)
    return mx.sym.FullyConnected(data=mx.sym.Dropout(net, p=0.2), name="fc2", num_hidden=10)


def lenet(data):
    net = mx.sym.Convolution(data=data, name="conv1", kernel=(3, 3), num_filter=8)
    net = mx.sym.Activation(data=net, act_type="tanh")
    net = mx.sym.Pooling(data=net, pool_type="max", kernel=(2, 2), stride=(2, 2))
    net = mx.sym.Convolution(data=net, name="conv2", kernel=(3, 3), pad=(1, 1), num_filter=16)
    net = mx.sym.Activation(data=net, act_type="tanh")
    net = mx.sym.Pooling(data=net, pool_type="max", kernel=(2, 2), stride=(2, 2), pooling_convention="full")
    net = mx.sym.FullyConnected(data=mx.sym.Flatten(data=net), name="fc1", num_hidden=32)
    net = mx.sym.Activation(data=net, act_type="tanh")
    return mx.sym.FullyConnected(data=net, name="fc2", num_hidden=10)


images, labels = digits(1200, seed=1)
train = mx.io.NDArrayIter(images, labels, batch_size=args.batch_size, shuffle=True)
valid = mx.io.NDArrayIter(*digits(210, seed=2), batch_size=args.batch_size)
network = {"mlp": mlp, "batch_norm": batch_norm, "lenet": lenet}[args.network](mx.sym.Variable("data"))
network = mx.sym.SoftmaxOutput(data=network, name="softmax")

model = mx.mod.Module(symbol=network, context=mx.cpu())
metrics = [mx.metric.create("acc"), mx.metric.CrossEntropy(), mx.metric.TopKAccuracy(top_k=3)]
model.fit(
    train,
    eval_data=valid,
    eval_metric=metrics,
    optimizer="sgd",
    optimizer_params={"learning_rate": 0.1, "momentum": 0.9, "wd": 1e-4,
                      "lr_scheduler": mx.lr_scheduler.MultiFactorScheduler(step=[150], factor=0.1)},
    initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
    batch_end_callback=mx.callback.Speedometer(args.batch_size, 20),
    epoch_end_callback=mx.callback.do_checkpoint(args.prefix),
    num_epoch=args.num_epochs,
)  # fmt: skip
score = dict(model.score(valid, "acc"))
print(f"trained accuracy={score['accuracy']:f}")

again = mx.mod.Module.load(args.prefix, args.num_epochs)
again.bind(data_shapes=valid.provide_data, label_shapes=valid.provide_label, for_training=False)
score = dict(again.score(valid, ["acc"]))
print(f"loaded accuracy={score['accuracy']:f}")
predicted = again.predict(valid).asnumpy()
right = predicted.argmax(1) == digits(210, seed=2)[1]
print(f"predicted {predicted.shape} accuracy={right.mean():f}")
