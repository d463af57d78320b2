"""What executors are asked to do, for MXNet (which recorded the answers) and for bucketmod alike: ``mx`` is either.

Runs under Python 3.9 too.
"""

import numpy as np


def values(*shape, **options):
    return np.random.RandomState(options.get("seed", 0)).uniform(-1, 1, shape).astype("f4")


def classifier(mx):
    data = mx.sym.Variable("data")
    hidden = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=6, name="fc1"), act_type="tanh", name="tanh1")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(hidden, num_hidden=3, name="fc2"), name="softmax")


def two_outputs(mx):
    """A loss, and an output that needs a gradient from outside."""
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("weight")
    product = mx.sym.broadcast_mul(data, weight, name="product")
    return mx.sym.Group([mx.sym.MakeLoss(mx.sym.square(product, name="square"), name="loss"), product])


def filled(mx, symbol, shapes):
    """An array for every argument, and gradients of ones."""
    arguments, _, _ = symbol.infer_shape(**shapes)
    names = symbol.list_arguments()
    args = {n: mx.nd.array(values(*s, seed=i)) for i, (n, s) in enumerate(zip(names, arguments))}  # noqa: B905
    if "softmax_label" in args:
        args["softmax_label"][:] = np.arange(args["softmax_label"].shape[0]) % 3
    return args, {n: mx.nd.ones(s) for n, s in zip(names, arguments)}  # noqa: B905


def bound(mx):
    """write, add and null beside each other; gradients added up over two passes; arrays changed behind its back."""
    symbol = classifier(mx)
    args, grads = filled(mx, symbol, {"data": (4, 5)})
    requests = {"data": "write", "fc1_weight": "add", "fc1_bias": "write", "fc2_weight": "null"}
    found = {}
    executor = symbol.bind(mx.cpu(), args, grads, requests)
    executor.forward(is_train=True)
    executor.backward()
    args["fc2_bias"][:] = values(3, seed=9)
    executor.forward(is_train=True, data=values(4, 5, seed=8))
    found["output"] = executor.outputs[0].asnumpy()
    executor.backward()
    found.update({"grad/" + name: grads[name].asnumpy() for name in requests})
    found["eval"] = executor.forward(is_train=False, data=mx.nd.array(values(4, 5, seed=7)))[0].asnumpy()
    return found


def listed(mx):
    """Arguments and gradients in lists, some gradients absent; views of larger arrays."""
    symbol = classifier(mx)
    args, grads = filled(mx, symbol, {"data": (4, 5)})
    store = mx.nd.zeros((9, 5))
    store[3:7] = args["data"]
    args["data"], grads["data"] = store[3:7], mx.nd.ones((9, 5))[1:5]
    names = symbol.list_arguments()
    chosen = [grads[n] if n in ("data", "fc2_weight") else None for n in names]
    executor = symbol.bind(mx.cpu(), [args[n] for n in names], chosen)
    executor.forward(is_train=True)
    executor.backward()
    store[3:7] = values(4, 5, seed=4)
    found = {"grad/data": grads["data"].asnumpy(), "grad/fc2_weight": grads["fc2_weight"].asnumpy()}
    found["eval"] = executor.forward()[0].asnumpy()
    return found


def heads(mx):
    """A gradient for one of two outputs, by list and by name; a loss beside it."""
    symbol = two_outputs(mx)
    args, grads = filled(mx, symbol, {"data": (2, 3), "weight": (1, 3)})
    executor = symbol.bind(mx.cpu(), args, grads)
    found = {}
    head = [mx.nd.ones((2, 3)), mx.nd.array(values(2, 3, seed=5))]
    for kind, given in (("list", head), ("dict", dict(zip(symbol.list_outputs(), head)))):  # noqa: B905
        outputs = executor.forward(is_train=True)
        executor.backward(given)
        found.update({kind + "/" + name: grads[name].asnumpy() for name in grads})
    found.update({"output%d" % i: out.asnumpy() for i, out in enumerate(outputs)})
    return found


def simple(mx):
    """simple_bind, parameters copied in, and an executor of half the batch over the same memory."""
    symbol = classifier(mx)
    args, _ = filled(mx, symbol, {"data": (4, 5)})
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", data=(4, 5))
    executor.copy_params_from(args)
    small = executor.reshape(partial_shaping=True, data=(2, 5))
    small.forward(is_train=True)
    small.backward()
    found = {"small/" + name: array.asnumpy() for name, array in small.grad_dict.items()}
    found["small/output"] = small.outputs[0].asnumpy()
    executor.forward(is_train=True)
    executor.backward()
    found.update({"large/" + name: array.asnumpy() for name, array in executor.grad_dict.items()})
    return found


def evaluated(mx):
    a, b = mx.sym.Variable("a"), mx.sym.Variable("b")
    with mx.name.NameManager():
        both = mx.sym.Group([2 * a + b, a])
    found = both.eval(a=mx.nd.array(values(2, 3)), b=mx.nd.array(values(2, 3, seed=1)))
    return {"sum": found[0].asnumpy(), "variable": found[1].asnumpy()}


def with_states(mx):
    """Moving statistics, of which one is a view: they change in the backward pass, and inference uses them."""
    symbol = mx.sym.BatchNorm(mx.sym.Variable("data"), fix_gamma=False, momentum=0.5, name="norm")
    args, grads = filled(mx, symbol, {"data": (6, 3)})
    store = mx.nd.array(values(9, seed=6))
    states = [store[1:4], mx.nd.ones((3,))]
    executor = symbol.bind(mx.cpu(), args, grads, aux_states=states)
    found = {}
    for step in range(2):
        executor.forward(is_train=True)
        found["forward%d" % step] = executor.outputs[0].asnumpy()
        found["mean after forward%d" % step] = states[0].asnumpy()
        executor.backward(mx.nd.array(values(6, 3, seed=5)))
        found["mean%d" % step] = states[0].asnumpy()
        found["var%d" % step] = executor.aux_dict["norm_moving_var"].asnumpy()
    found["store"] = store.asnumpy()
    found["eval"] = executor.forward()[0].asnumpy()
    found.update({"grad/" + name: array.asnumpy() for name, array in grads.items()})
    return found


def typed(mx):
    """Whole numbers as indices, and doubles."""
    symbol = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=5, output_dim=3, name="embed")
    executor = symbol.simple_bind(
        mx.cpu(), grad_req={"embed_weight": "write"}, type_dict={"data": "int32"}, data=(2, 4)
    )
    executor.arg_dict["embed_weight"][:] = values(5, 3)
    numbers = mx.nd.array(np.arange(8).reshape((2, 4)) % 5, dtype="int32")
    executor.forward(is_train=True, data=numbers)
    executor.backward(mx.nd.array(values(2, 4, 3, seed=2)))
    return {"output": executor.outputs[0].asnumpy(), "grad": executor.grad_dict["embed_weight"].asnumpy()}


CASES = [bound, listed, heads, simple, evaluated, with_states, typed]
