"""Chains of modules in training, for MXNet (which recorded the numbers) and for bucketmod alike: ``mx`` is either.

Runs under Python 3.9 too.
"""

import numpy as np

ROWS, FEATURES, HIDDEN, CLASSES, BATCH = 24, 5, 6, 3, 8


def values(*shape, **options):
    return np.random.RandomState(options.get("seed", 0)).uniform(-1, 1, shape).astype("f4")


def iterator(mx):
    labels = np.random.RandomState(3).randint(0, CLASSES, ROWS).astype("f4")
    return mx.io.NDArrayIter(values(ROWS, FEATURES), labels, BATCH)


def first_half(mx):
    scores = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=HIDDEN, name="fc1")
    return mx.mod.Module(mx.sym.Activation(scores, act_type="tanh", name="tanh1"), label_names=None)


def second_half(mx, loss):
    scores = mx.sym.FullyConnected(mx.sym.Variable("middle"), num_hidden=CLASSES, name="fc2")
    if not loss:
        return mx.mod.Module(scores, data_names=["middle"], label_names=None)
    return mx.mod.Module(mx.sym.SoftmaxOutput(scores, name="softmax"), data_names=["middle"])


def initial(mx):
    shapes = {"fc1_weight": (HIDDEN, FEATURES), "fc1_bias": (HIDDEN,), "fc2_weight": (CLASSES, HIDDEN),
              "fc2_bias": (CLASSES,)}  # fmt: skip
    return {name: mx.nd.array(values(*shape, seed=i)) for i, (name, shape) in enumerate(sorted(shapes.items()), 10)}


def softmax_gradient(scores, labels):
    """In numpy, as users write it."""
    scores, labels = scores.asnumpy(), labels.asnumpy().astype(int)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1
    return shares


def two_modules(mx):
    chain = mx.mod.SequentialModule()
    return chain.add(first_half(mx)).add(second_half(mx, True), take_labels=True, auto_wiring=True)


def python_loss(mx):
    chain = mx.mod.SequentialModule()
    chain.add(first_half(mx)).add(second_half(mx, False), auto_wiring=True)
    loss = mx.mod.PythonLossModule(grad_func=softmax_gradient)
    return chain.add(loss, take_labels=True, auto_wiring=True)


CHAINS = [two_modules, python_loss]


def train(mx, chain):
    """Two epochs by fit; then outputs and one more step by hand."""
    data = iterator(mx)
    chain.fit(data, eval_metric="acc", optimizer="sgd", num_epoch=2, arg_params=initial(mx), aux_params={},
              allow_missing=True, optimizer_params={"learning_rate": 0.1, "momentum": 0.9})  # fmt: skip
    found = {"fitted/" + name: array.asnumpy().copy() for name, array in chain.get_params()[0].items()}
    found["predicted"] = chain.predict(iterator(mx)).asnumpy()
    found["score"] = np.array([value for _, value in chain.score(iterator(mx), ["acc"])])
    data.reset()
    chain.forward_backward(next(data))
    chain.update()
    found.update({"stepped/" + name: array.asnumpy().copy() for name, array in chain.get_params()[0].items()})
    return found
