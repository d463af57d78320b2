"""Graphs whose groups of nodes live on contexts of their own, for MXNet (which recorded the numbers) and for bucketmod
alike: ``mx`` is either.

Runs under Python 3.9 too.
"""

import numpy as np

STEPS, WORDS, HIDDEN, BATCH = 4, 11, 6, 4


def values(*shape, **options):
    return np.random.RandomState(options.get("seed", 0)).uniform(-0.5, 0.5, shape).astype("f4")


def perceptron(mx):
    s = mx.sym
    with mx.AttrScope(ctx_group="first"):
        hidden = s.Activation(s.FullyConnected(s.Variable("data"), num_hidden=6, name="fc1"), act_type="tanh", name="t")
    with mx.AttrScope(ctx_group="second"):
        return s.SoftmaxOutput(s.FullyConnected(hidden, num_hidden=3, name="fc2"), name="softmax")


def recurrent(mx, layers=2):
    """Unrolled cells, each layer in a group of its own, as in MXNet's example of model-parallel training."""
    s = mx.sym
    with mx.AttrScope(ctx_group="embed"):
        inputs = s.Embedding(s.Variable("data"), input_dim=WORDS, output_dim=HIDDEN, name="embed")
    for layer in range(layers):
        with mx.AttrScope(ctx_group="layer%d" % layer):
            inputs, _ = mx.rnn.LSTMCell(HIDDEN, prefix="l%d_" % layer).unroll(STEPS, inputs, merge_outputs=True)
    with mx.AttrScope(ctx_group="decode"):
        scores = s.FullyConnected(s.Reshape(inputs, shape=(-1, HIDDEN)), num_hidden=WORDS, name="pred")
        return s.SoftmaxOutput(scores, s.Reshape(s.Variable("softmax_label"), shape=(-1,)), name="softmax")


def zigzag(mx):
    """There and back; an output on each side, one of which the other side reads."""
    s = mx.sym
    with mx.AttrScope(ctx_group="first"):
        left = s.FullyConnected(s.Variable("data"), num_hidden=4, name="left")
    with mx.AttrScope(ctx_group="second"):
        right = s.FullyConnected(s.sigmoid(left, name="gate"), num_hidden=4, name="right")
    with mx.AttrScope(ctx_group="first"):
        joined = s.FullyConnected(s.elemwise_mul(left, right, name="product"), num_hidden=3, name="joined")
        return s.Group([s.SoftmaxOutput(joined, name="softmax"), left])


def two_sided(mx):
    return {"first": mx.cpu(1), "second": mx.cpu(2)}


def by_layer(mx):
    return {"embed": mx.cpu(0), "layer0": mx.cpu(0), "layer1": mx.cpu(1), "decode": mx.cpu(1)}


CASES = {
    "perceptron": (perceptron, two_sided, (BATCH, 5), (BATCH,)),
    "recurrent": (recurrent, by_layer, (BATCH, STEPS), (BATCH, STEPS)),
}


def batch(mx, case, step):
    _, _, data, label = CASES[case]
    random = np.random.RandomState(step)
    words = random.randint(0, WORDS, data) if case == "recurrent" else random.uniform(-1, 1, data)
    labels = random.randint(0, WORDS if case == "recurrent" else 3, label)
    return mx.io.DataBatch([mx.nd.array(words)], [mx.nd.array(labels)])


def train(mx, case, group2ctxs, context=None):
    """Three steps of a Module: the outputs of each, the parameters at the end."""
    make, _, data, label = CASES[case]
    with mx.name.NameManager():
        symbol = make(mx)
    module = mx.mod.Module(symbol, context=context or mx.cpu(0), group2ctxs=group2ctxs)
    module.bind([("data", data)], [("softmax_label", label)])
    module.init_params(mx.init.One())
    shapes = {name: array.shape for name, array in module.get_params()[0].items()}
    start = {name: mx.nd.array(values(*shapes[name], seed=i)) for i, name in enumerate(sorted(shapes))}
    module.init_params(arg_params=start, aux_params={}, force_init=True)
    module.init_optimizer(optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
    found = {}
    for step in range(3):
        module.forward_backward(batch(mx, case, step))
        found["output%d" % step] = module.get_outputs()[0].asnumpy().copy()
        module.update()
    found.update({"param/" + name: array.asnumpy().copy() for name, array in module.get_params()[0].items()})
    return found


def executed(mx, group2ctx):
    """Outputs and gradients of ``zigzag``, written and added up."""
    symbol = zigzag(mx)
    executor = symbol.simple_bind(mx.cpu(0), grad_req="write", group2ctx=group2ctx, data=(2, 5))
    for seed, (name, array) in enumerate(sorted(executor.arg_dict.items())):
        array[:] = np.arange(2) if name == "softmax_label" else values(*array.shape, seed=seed)
    executor.forward(is_train=True)
    head = values(2, 4, seed=9)
    outputs = executor.outputs
    executor.backward([mx.nd.ones((2, 3), outputs[0].context), mx.nd.array(head, outputs[1].context)])
    found = {"grad/" + name: array.asnumpy() for name, array in executor.grad_dict.items()}
    found.update({"output%d" % i: array.asnumpy() for i, array in enumerate(outputs)})
    return found
