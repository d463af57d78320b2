"""What monitors are shown, for MXNet (which recorded it) and for bucketmod alike: ``mx`` is either.

Runs under Python 3.9 too. Every argument has a gradient here: what MXNet shows for others is memory that nobody wrote.
"""

import logging

import numpy as np


def values(*shape, **options):
    return np.random.RandomState(options.get("seed", 0)).uniform(0.1, 1, shape).astype("f4")


def classifier(mx):
    data = mx.sym.Variable("data")
    hidden = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=4, name="fc1"), act_type="relu", name="relu1")
    scores = mx.sym.FullyConnected(hidden, num_hidden=3, no_bias=True, name="fc2")
    return mx.sym.SoftmaxOutput(scores, name="softmax"), {"data": (2, 5)}


def elementwise(mx):
    """Values with several users, among them sums, which have no node of their own in the gradient graph."""
    s = mx.sym
    data, other = s.Variable("data"), s.Variable("other")
    first = s.exp(data, name="first")
    plus = s.elemwise_add(first, s.sin(first, name="sine"), name="plus")
    chosen = s.where(s.Variable("condition"), plus, first * 2, name="chosen")
    product = s.broadcast_mul(s.elemwise_div(chosen, other, name="quotient"), s.Variable("row"), name="product")
    total = s.add_n(product, other, first, name="total")
    blocked = s.BlockGrad(s.square(other, name="square"), name="blocked")
    loss = s.MakeLoss(s.tanh(other, name="tanh"), name="loss")
    picked = s.pick(total, s.Variable("index"), name="picked")
    return s.Group([total + blocked, loss, picked]), {
        "data": (2, 3), "other": (2, 3), "condition": (2, 3), "row": (2, 1), "index": (2,)
    }  # fmt: skip


def layers(mx):
    """Operators with hidden outputs, with several outputs, and those of MXNet's older interface."""
    s = mx.sym
    data = s.Variable("data")
    parts = s.SliceChannel(s.LayerNorm(data, name="normal"), num_outputs=2, axis=1, name="parts")
    joined = s.Concat(parts[1], s.sigmoid(parts[0], name="gate"), dim=1, name="joined")
    turned = s.SwapAxis(joined, dim1=1, dim2=2, name="turned")
    multiplied = s.batch_dot(turned, data, name="multiplied")
    moved = s.transpose(s.stack(multiplied, multiplied, axis=1, name="stacked"), axes=(0, 2, 1, 3), name="moved")
    flat = s.Reshape(moved, shape=(-3, -3), name="flat")
    batch = s.BatchNorm(flat, name="batch", fix_gamma=False)
    looked_up = s.take(s.Variable("table"), s.Variable("rows"), name="looked_up")
    return s.Group([s.mean(batch, axis=1, name="mean"), s.sum(looked_up, name="sum")]), {
        "data": (2, 4, 3), "table": (5, 2), "rows": (3,)
    }  # fmt: skip


CASES = [classifier, elementwise, layers]


def shown(mx, case, monitor_all):
    """[name, shape, root of the mean square] of what a callback sees in a forward and in a backward pass."""
    with mx.name.NameManager():
        symbol, shapes = case(mx)
    executor = symbol.simple_bind(mx.cpu(), **shapes)
    for seed, array in enumerate(executor.arg_arrays):
        array[:] = values(*array.shape, seed=seed)
    for array in executor.aux_arrays:
        array[:] = 1
    seen, passes = [], []
    executor.set_monitor_callback(lambda name, array: seen.append(described(mx, name, array)), monitor_all)
    executor.forward(is_train=True)
    passes.append(seen[:])
    del seen[:]
    executor.backward([mx.nd.array(values(*out.shape, seed=7)) for out in executor.outputs])
    return [*passes, seen]


def described(mx, name, array):
    if not isinstance(array, mx.nd.NDArray):  # MXNet hands out what its C interface has
        import ctypes

        from mxnet.base import NDArrayHandle, py_str

        name, array = py_str(name), mx.nd.NDArray(ctypes.cast(array, NDArrayHandle), writable=False)
    numbers = array.asnumpy().astype("f8")
    return [name, list(array.shape), float(np.sqrt(np.mean(numbers * numbers)))]


def bucket(mx):
    def sym_gen(key):
        mean = mx.sym.mean(mx.sym.Variable("data"), axis=1, name="mean")
        scores = mx.sym.FullyConnected(mean, num_hidden=3, name="fc")
        return mx.sym.SoftmaxOutput(scores, name="softmax"), ("data",), ("softmax_label",)

    return sym_gen


def watched_training(mx, **options):
    """What a Monitor of every second batch logs over buckets, and after a change of the batch size."""
    module = mx.mod.BucketingModule(bucket(mx), default_bucket_key=4)
    module.bind([("data", (2, 4, 5))], [("softmax_label", (2,))], inputs_need_grad=True)
    parameters = {"fc_weight": mx.nd.array(values(3, 5)), "fc_bias": mx.nd.array(values(3, seed=1))}
    module.init_params(arg_params=parameters, aux_params={})
    module.init_optimizer(optimizer_params={"learning_rate": 0.5})
    # What flows into the labels is left out: their gradient is not asked for.
    monitor = mx.mon.Monitor(2, pattern="(?!softmax_backward_output1)", **options)
    module.install_monitor(monitor)
    found = []
    for step, (key, size) in enumerate([(4, 2), (3, 2), (3, 2), (4, 2), (4, 1)]):
        data = values(size, key, 5, seed=step)
        batch = mx.io.DataBatch(
            [mx.nd.array(data)], [mx.nd.ones((size,))], bucket_key=key, provide_data=[("data", data.shape)],
            provide_label=[("softmax_label", (size,))],
        )  # fmt: skip
        monitor.tic()
        module.forward_backward(batch)
        module.update()
        found.append([[number, name, float(text)] for number, name, text in monitor.toc()])
    return found


def logged(mx):
    """The lines of ``toc_print`` with statistics that are lists and arrays."""
    symbol, shapes = classifier(mx)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    monitor = mx.mon.Monitor(1, stat_func=lambda array: [array.sum(), array.size * mx.nd.ones((2,))], sort=True)
    monitor.install(executor)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        monitor.tic()
        monitor.toc_print()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return lines
