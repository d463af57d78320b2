"""Tiny graphs that many tests share, so that each is compiled once a test run, and what they compute in numpy."""

from __future__ import annotations

import numpy as np

import bucketmod as mx

FEATURES, CLASSES, BATCH = 5, 3, 4


def classifier():
    """softmax(data @ fc_weight.T + fc_bias) as a loss."""
    data = mx.sym.Variable("data")
    scores = mx.sym.FullyConnected(data, num_hidden=CLASSES, name="fc")
    return mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")


def linear():
    """data @ fc_weight.T + fc_bias, no loss."""
    return mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=CLASSES, name="fc")


def bucketed(key):
    """The classifier on the mean over axis 1 of data (batch, key, features)."""
    mean = mx.sym.mean(mx.sym.Variable("data"), axis=1)
    scores = mx.sym.FullyConnected(mean, num_hidden=CLASSES, name="fc")
    symbol = mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")
    return symbol, ("data",), ("softmax_label",)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def labels(batch=BATCH):
    return (np.arange(batch) % CLASSES).astype("f4")


def batch(n=BATCH, seed=0, label=True):
    """A batch for ``classifier`` or ``linear``."""
    return mx.io.DataBatch([mx.nd.array(values(n, FEATURES, seed=seed))], [mx.nd.array(labels(n))] if label else None)


def bucket_batch(key, n=BATCH, seed=0, label=True):
    data = values(n, key, FEATURES, seed=seed)
    return mx.io.DataBatch(
        [mx.nd.array(data)],
        [mx.nd.array(labels(n))] if label else None,
        bucket_key=key,
        provide_data=[mx.io.DataDesc("data", data.shape)],
        provide_label=[mx.io.DataDesc("softmax_label", (n,))] if label else None,
    )


def parameters(seed=1):
    """Values for fc_weight and fc_bias."""
    weight, bias = values(CLASSES, FEATURES, seed=seed), values(CLASSES, seed=seed + 1)
    return {"fc_weight": mx.nd.array(weight), "fc_bias": mx.nd.array(bias)}


def make_module(symbol=None, labelled=True, bind=True, init=True, optimizer=False, n=BATCH, **options):
    """A module of ``classifier`` (or ``symbol``), as far in its life as asked. ``bind_*`` options go to bind."""
    bind_options = {name[5:]: options.pop(name) for name in list(options) if name.startswith("bind_")}
    names = ("softmax_label",) if labelled else None
    module = mx.mod.Module(classifier() if symbol is None else symbol, label_names=names, **options)
    if bind:
        shapes = [("softmax_label", (n,))] if labelled else None
        module.bind([("data", (n, FEATURES))], shapes, **bind_options)
    if bind and init:
        module.init_params(arg_params=parameters())
    if optimizer:
        module.init_optimizer(optimizer_params={"learning_rate": 0.5})
    return module


def make_bucketing(bind=True, init=True, optimizer=False, default=6, n=BATCH, **options):
    """A BucketingModule of ``bucketed``."""
    bind_options = {name[5:]: options.pop(name) for name in list(options) if name.startswith("bind_")}
    module = mx.mod.BucketingModule(options.pop("sym_gen", bucketed), default_bucket_key=default, **options)
    if bind:
        module.bind([("data", (n, default, FEATURES))], [("softmax_label", (n,))], **bind_options)
    if bind and init:
        module.init_params(arg_params=parameters())
    if optimizer:
        module.init_optimizer(optimizer_params={"learning_rate": 0.5})
    return module


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def expected(data, label, weight, bias):
    """(probabilities, gradients by name) of the classifier."""
    probabilities = softmax(data @ weight.T + bias)
    scores = probabilities - np.eye(CLASSES, dtype="f4")[label.astype(int)]
    return probabilities, {"fc_weight": scores.T @ data, "fc_bias": scores.sum(0), "data": scores @ weight}


def gradients(module):
    """Gradients of the parameters as they lie in the store."""
    module = getattr(module, "_curr_module", module)
    return {name: array.copy() for name, array in module._exec_group.memory.contexts[0].store.gradients.items()}


def numpy_params(module):
    return {name: array.asnumpy() for name, array in module.get_params()[0].items()}
