"""Records MXNet 1.9.1's stores: sums over devices, updates on the store, row_sparse pushes and pulls,
2-bit compression with residuals, and modules of two contexts that train through stores.

The cases are functions of the package (``mx``); the tests run them with ours. Run with MXNet's Python 3.9
environment: writes kvstore.npz beside this file.
"""

import os
import pathlib

import numpy as np

SHAPES = {"a_weight": (3, 7), "b_bias": (19,)}
CASES = {
    "local": ("local", 2, None, None),
    "local 5": ("local", 5, None, None),
    "device 3": ("device", 3, None, None),
    "local sgd": ("local", 2, {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01}, None),
    "device sgd": ("device", 3, {"learning_rate": 0.1, "momentum": 0.9}, None),
    "2bit": ("device", 2, None, {"type": "2bit"}),
    "2bit fine": ("device", 3, None, {"type": "2bit", "threshold": 0.05}),
    "2bit one device": ("device", 1, None, {"type": "2bit", "threshold": 0.3}),
    "2bit sgd": ("device", 2, {"learning_rate": 0.1, "momentum": 0.9}, {"type": "2bit", "threshold": 0.25}),
}


def run(mx, case):
    """What is pulled after each of six pushes of two keys."""
    kind, devices, sgd, compression = CASES[case]
    rng = np.random.RandomState(11)
    store = mx.kv.create(kind)
    if compression is not None:
        store.set_gradient_compression(compression)
    if sgd is not None:
        store.set_optimizer(mx.optimizer.create("sgd", **sgd))
    names = list(SHAPES)
    store.init(names, [mx.nd.array(rng.randn(*shape)) for shape in SHAPES.values()])
    found = []
    for step in range(6):
        grads = [
            [mx.nd.array(0.4 * rng.randn(*shape), ctx=mx.cpu(device)) for device in range(devices)]
            for shape in SHAPES.values()
        ]
        outs = [[mx.nd.zeros(shape, ctx=mx.cpu(device)) for device in range(devices)] for shape in SHAPES.values()]
        if step % 2:
            store.pushpull(names, grads, out=outs)
        else:
            store.push(names, grads)
            store.pull(names, out=outs)
        found += [array.asnumpy().ravel() for arrays in outs for array in arrays]
    return np.concatenate(found)


SPARSE = {
    "no optimizer": None,
    "sgd": ("sgd", {"learning_rate": 0.1, "wd": 0.1}),
    "sgd momentum": ("sgd", {"learning_rate": 0.1, "wd": 0.1, "momentum": 0.9}),
    "sgd not lazy": ("sgd", {"learning_rate": 0.1, "wd": 0.1, "momentum": 0.9, "lazy_update": False}),
    "adam": ("adam", {"wd": 0.1}),
    "adam not lazy": ("adam", {"wd": 0.1, "lazy_update": False}),
    "adagrad": ("adagrad", {"learning_rate": 0.1}),
    "ftrl": ("ftrl", {"wd": 0.1}),
    "rmsprop": ("rmsprop", {"wd": 0.1}),
}


def run_sparse(mx, case):
    """Rows pulled after each of three pushes of row_sparse gradients by two devices."""
    rng = np.random.RandomState(5)
    store = mx.kv.create("local")
    if SPARSE[case] is not None:
        name, options = SPARSE[case]
        store.set_optimizer(mx.optimizer.create(name, **options))
    store.init("w", mx.nd.array(rng.randn(6, 2)).tostype("row_sparse"))
    found = []
    for rows in ([[1, 3], [3]], [[0, 3, 5], [2]], [[3], [3]]):
        parts = [(rng.randn(len(each), 2).astype(np.float32), each) for each in rows]
        grads = [mx.nd.sparse.row_sparse_array(part, shape=(6, 2)) for part in parts]
        store.push("w", grads)
        outs = [mx.nd.sparse.zeros("row_sparse", (6, 2)) for _ in range(3)]
        store.row_sparse_pull("w", out=outs[0], row_ids=mx.nd.array(range(6)))
        store.row_sparse_pull("w", out=outs[1:], row_ids=mx.nd.array([[3, 0], [3, 5]]))
        found += [out.indices.asnumpy().astype(np.float32) for out in outs]
        found += [out.data.asnumpy().ravel() for out in outs] + [out.asnumpy().ravel() for out in outs]
    return np.concatenate(found)


MODULES = {
    "sgd local": ("local", "sgd", {"momentum": 0.9, "wd": 0.01}, None, "1"),
    "adam device": ("device", "adam", {"learning_rate": 0.02}, None, "1"),
    "adam on the devices": ("local", "adam", {"learning_rate": 0.02}, None, "0"),
    "lamb on the devices": ("device", "lamb", {"learning_rate": 0.02}, None, "0"),
    "nag without store": (None, "nag", {"momentum": 0.9}, None, "1"),
    "sgd compressed": ("device", "sgd", {"learning_rate": 0.05}, {"type": "2bit", "threshold": 0.1}, "1"),
    "rmsprop compressed, on the devices": ("device", "rmsprop", {}, {"type": "2bit", "threshold": 0.05}, "0"),
}


def run_module(mx, case):
    """The parameters of a network of two layers after six batches on two contexts."""
    kind, name, options, compression, on_store = MODULES[case]
    rng = np.random.RandomState(2)
    one = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=6, name="one")
    two = mx.sym.FullyConnected(mx.sym.Activation(one, act_type="tanh", name="bend"), num_hidden=4, name="two")
    net = mx.sym.SoftmaxOutput(two, name="softmax")
    module = mx.mod.Module(net, context=[mx.cpu(0), mx.cpu(1)], compression_params=compression)
    module.bind([("data", (6, 5))], [("softmax_label", (6,))])
    shapes = {"one_weight": (6, 5), "one_bias": (6,), "two_weight": (4, 6), "two_bias": (4,)}
    module.init_params(arg_params={key: mx.nd.array(0.5 * rng.randn(*shape)) for key, shape in shapes.items()})
    os.environ["MXNET_UPDATE_ON_KVSTORE"] = on_store
    try:
        module.init_optimizer(kvstore=kind, optimizer=name, optimizer_params=options)
    finally:
        del os.environ["MXNET_UPDATE_ON_KVSTORE"]
    for _ in range(6):
        batch = mx.io.DataBatch([mx.nd.array(rng.randn(6, 5))], [mx.nd.array(rng.randint(0, 4, 6))])
        module.forward_backward(batch)
        module.update()
    params, _ = module.get_params()
    return np.concatenate([params[key].asnumpy().ravel() for key in shapes])


if __name__ == "__main__":
    import mxnet

    recorded = {case: run(mxnet, case) for case in CASES}
    recorded.update({"sparse " + case: run_sparse(mxnet, case) for case in SPARSE})
    recorded.update({"module " + case: run_module(mxnet, case) for case in MODULES})
    np.savez_compressed(pathlib.Path(__file__).parent / "kvstore.npz", **recorded)
