"""A few training steps of small models with layers and heads of their own kinds, for whichever package is given."""

import numpy as np

BATCH, INPUTS, CLASSES, STEPS = 8, 5, 3, 6


def batch_norm(mx):
    """One normalisation with gamma kept at 1, one with a free gamma, both before and after a nonlinearity."""
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=6, name="fc1")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, momentum=0.7, name="bn1"), act_type="relu")
    net = mx.sym.BatchNorm(net, fix_gamma=False, eps=1e-2, name="bn2")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=CLASSES, name="fc2"), name="softmax")


def batch_norm_of_the_last(mx):
    """Statistics over time and batch of sequences, frozen in a second layer."""
    net = mx.sym.Reshape(mx.sym.Variable("data"), shape=(0, -1, 1))
    net = mx.sym.FullyConnected(net, num_hidden=4, flatten=False, name="fc1")
    net = mx.sym.BatchNorm(net, axis=-1, fix_gamma=False, name="bn1")
    net = mx.sym.BatchNorm(net, axis=2, fix_gamma=False, use_global_stats=True, name="bn2")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=CLASSES, name="fc2"), name="softmax")


def convolutions(mx):
    """Images cut from the rows of data: convolutions, normalised, pooled, and a deconvolution."""
    net = mx.sym.Reshape(mx.sym.Variable("data"), shape=(-1, 1, 1, INPUTS))
    net = mx.sym.broadcast_axis(net, axis=2, size=4)
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=4, no_bias=True, name="conv1")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, fix_gamma=False, name="bn1"), act_type="relu")
    net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full")
    net = mx.sym.Deconvolution(net, kernel=(2, 2), num_filter=3, name="deconv1")
    net = mx.sym.Convolution(net, kernel=(2, 2), stride=(1, 2), num_filter=4, name="conv2")
    net = mx.sym.LeakyReLU(net, slope=0.2)
    net = mx.sym.Flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=CLASSES, name="fc"), name="softmax")


def _head(operator, **options):
    def model(mx):
        net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=CLASSES, name="fc")
        return getattr(mx.sym, operator)(net, name="softmax", **options)

    return model


MODELS = {
    "batch_norm": batch_norm,
    "batch_norm_of_the_last": batch_norm_of_the_last,
    "convolutions": convolutions,
    "linear": _head("LinearRegressionOutput"),
    "mae": _head("MAERegressionOutput", grad_scale=2.0),
    "logistic": _head("LogisticRegressionOutput"),
    "svm": _head("SVMOutput", margin=0.5, regularization_coefficient=0.1),
}


def train(mx, name):
    """Array name -> value: parameters, auxiliary states and inference after the last step, outputs of each step."""
    random = np.random.RandomState(5)
    classes = "regression" not in name and name not in ("linear", "mae", "logistic")
    label_shape = (BATCH,) if classes else (BATCH, CLASSES)
    module = mx.mod.Module(MODELS[name](mx), context=mx.cpu())
    module.bind(data_shapes=[("data", (BATCH, INPUTS))], label_shapes=[("softmax_label", label_shape)])
    module.init_params(mx.init.Uniform(0.1))
    arguments, states = module.get_params()
    for key in sorted(arguments):
        arguments[key] = mx.nd.array(random.uniform(-0.7, 0.9, arguments[key].shape))
    module.set_params(arguments, states)
    module.init_optimizer(
        optimizer="sgd", optimizer_params={"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01}, kvstore=None
    )
    found = {}
    for step in range(STEPS):
        data = random.standard_normal((BATCH, INPUTS)) * 2 + 1
        label = random.randint(0, CLASSES, label_shape) if classes else random.uniform(0, 1, label_shape)
        batch = mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])
        module.forward(batch, is_train=True)
        found["output%d" % step] = module.get_outputs()[0].asnumpy().copy()
        module.backward()
        module.update()
    arguments, states = module.get_params()
    found.update({"arg/" + key: value.asnumpy().copy() for key, value in arguments.items()})
    found.update({"aux/" + key: value.asnumpy().copy() for key, value in states.items()})
    module.forward(batch, is_train=False)
    found["inference"] = module.get_outputs()[0].asnumpy().copy()
    return found
