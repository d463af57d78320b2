"""FeedForward models, for MXNet (which recorded the answers) and for bucketmod alike: ``mx`` is either.

Runs under Python 3.9 too.
"""

import logging
import os
import tempfile

import numpy as np

ROWS, FEATURES, CLASSES = 20, 5, 3


def arrays():
    random = np.random.RandomState(0)
    return random.uniform(-1, 1, (ROWS, FEATURES)).astype("f4"), random.randint(0, CLASSES, ROWS).astype("f4")


def symbol(mx):
    data = mx.sym.Variable("data")
    hidden = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=6, name="fc1"), act_type="tanh", name="tanh1")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(hidden, num_hidden=CLASSES, name="fc2"), name="softmax")


def start(mx):
    random = np.random.RandomState(1)
    shapes = [("fc1_weight", (6, FEATURES)), ("fc1_bias", (6,)), ("fc2_weight", (CLASSES, 6)), ("fc2_bias", (CLASSES,))]
    return {name: mx.nd.array(random.uniform(-1, 1, shape)) for name, shape in shapes}


def parameters(model, found, moment):
    for name, array in model.arg_params.items():
        found["%s/%s" % (moment, name)] = array.asnumpy().copy()


def with_arrays(mx):
    """Shuffled batches with a rest that rolls over, labels in a column, arguments for the optimizer; saved and
    loaded."""
    np.random.seed(4)
    data, labels = arrays()
    model = mx.model.FeedForward(symbol(mx), num_epoch=3, optimizer="sgd", numpy_batch_size=8, arg_params=start(mx),
                                 learning_rate=0.3, momentum=0.9, wd=0.01)  # fmt: skip
    seen = []
    model.fit(data, labels.reshape((-1, 1)), eval_data=(data, labels),
              batch_end_callback=lambda param: seen.append((param.epoch, param.nbatch) + param.eval_metric.get()[1:]),
              eval_end_callback=lambda param: seen.append((param.epoch, param.nbatch) + param.eval_metric.get()[1:])
              )  # fmt: skip
    found = {"seen": np.array(seen, "f8"), "predicted": model.predict(data)}
    parameters(model, found, "fitted")
    with tempfile.TemporaryDirectory() as folder:
        model.save(os.path.join(folder, "model"))
        again = mx.model.FeedForward.load(os.path.join(folder, "model"), 3, numpy_batch_size=8, num_epoch=4,
                                          learning_rate=0.1)  # fmt: skip
    outputs, rows, labels = again.predict(mx.io.NDArrayIter(data, labels, 8), return_data=True)
    found.update({"again": outputs, "rows": rows, "labels": labels})
    found["score"] = np.array(again.score(mx.io.NDArrayIter(*arrays(), batch_size=8)))
    found["one batch"] = again.predict(data, num_batch=1)
    again.fit(mx.io.NDArrayIter(*arrays(), batch_size=8))
    parameters(again, found, "continued")
    return found


def with_iterators(mx):
    """Epochs of a given size, two contexts, an Optimizer object, by ``create``."""
    iterator = mx.io.NDArrayIter(*arrays(), batch_size=4)
    optimizer = mx.optimizer.create("sgd", learning_rate=0.2, rescale_grad=0.25)
    ends = []
    model = mx.model.FeedForward.create(
        symbol(mx), iterator, ctx=[mx.cpu(0), mx.cpu(1)], num_epoch=2, epoch_size=7, optimizer=optimizer,
        eval_data=mx.io.NDArrayIter(*arrays(), batch_size=4), arg_params=start(mx),
        epoch_end_callback=lambda epoch, *_: ends.append(epoch),
    )  # fmt: skip
    found = {"predicted": model.predict(iterator), "ends": np.array(ends)}
    parameters(model, found, "fitted")
    return found


def bucketed(mx):
    """A function from bucket key to symbol. Buckets grow: MXNet cannot bind one that is smaller than those before."""

    class Batches(mx.io.DataIter):
        default_bucket_key, batch_size = 4, 2

        def __init__(self):
            super().__init__(2)
            self.keys = []
            self.provide_data, self.provide_label = [("data", (2, 4, 5))], [("softmax_label", (2,))]

        def reset(self):
            self.keys = [4, 6, 4, 6, 5, 4]

        def next(self):
            if not self.keys:
                raise StopIteration
            key = self.keys.pop()
            data = np.random.RandomState(key + len(self.keys)).uniform(-1, 1, (2, key, 5))
            return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array([0, 2])], bucket_key=key, pad=0,
                                   provide_data=[("data", (2, key, 5))], provide_label=self.provide_label)  # fmt: skip

    def sym_gen(key):
        mean = mx.sym.mean(mx.sym.Variable("data"), axis=1, name="mean")
        return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mean, num_hidden=3, name="fc"), name="softmax")

    random = np.random.RandomState(2)
    first = {"fc_weight": mx.nd.array(random.uniform(-1, 1, (3, 5))), "fc_bias": mx.nd.zeros((3,))}
    model = mx.model.FeedForward(sym_gen, num_epoch=2, arg_params=first, learning_rate=0.5)
    model.fit(Batches())
    found = {}
    parameters(model, found, "fitted")
    return found


def log_lines(mx):
    """What a training logs, but for the times."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.Logger("feedforward")
    logger.addHandler(handler)
    model = mx.model.FeedForward(symbol(mx), num_epoch=2, arg_params=start(mx))
    model.fit(mx.io.NDArrayIter(*arrays(), batch_size=4), logger=logger)
    return [line.split("=")[0] for line in lines]


CASES = [with_arrays, with_iterators, bucketed]
