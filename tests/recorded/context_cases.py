"""Modules on several contexts, for whichever package is given: the same parameters, the same batches."""

import os

import numpy as np

FEATURES, HIDDEN, CLASSES = 5, 4, 3
PARAMETERS = {
    "one_weight": (HIDDEN, FEATURES), "norm_gamma": (HIDDEN,), "norm_beta": (HIDDEN,),
    "two_weight": (CLASSES, HIDDEN), "two_bias": (CLASSES,),
}  # fmt: skip

# name -> (kvstore, MXNET_UPDATE_ON_KVSTORE, optimizer, work load of the contexts)
EXCHANGES = {
    "local_sgd": ("local", "1", ("sgd", {"learning_rate": 0.3, "momentum": 0.9, "wd": 0.01}), [1, 1]),
    "device_adam": ("device", "1", ("adam", {"learning_rate": 0.05}), [1, 3]),
    "local_on_contexts": ("local", "0", ("sgd", {"learning_rate": 0.3, "momentum": 0.9}), [1, 1, 1]),
    "alone_adam": (None, "1", ("adam", {"learning_rate": 0.05}), [1, 1]),
    "one_context": ("local", "1", ("sgd", {"learning_rate": 0.3, "momentum": 0.9}), [1]),
}
SPLITS = [(7, [1, 1]), (7, [1, 3]), (8, [1, 1, 1]), (5, [1, 1]), (10, [0.5, 2, 1]), (2, [1, 1, 1]), (9, [1, 1, 1, 1])]


def values(shape, seed):
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def array(mx, shape, seed):
    return mx.nd.array(values(shape, seed))


def network(mx):
    """Two layers with normalisation over the batch between, and a loss."""
    sym = mx.sym
    hidden = sym.FullyConnected(sym.Variable("data"), num_hidden=HIDDEN, no_bias=True, name="one")
    hidden = sym.Activation(sym.BatchNorm(hidden, name="norm", fix_gamma=False, eps=1e-3), act_type="tanh")
    scores = sym.FullyConnected(hidden, num_hidden=CLASSES, name="two")
    return sym.SoftmaxOutput(scores, sym.Variable("softmax_label"), name="softmax")


def parameters(mx, shapes=PARAMETERS):
    return {name: array(mx, shape, 100 + i) for i, (name, shape) in enumerate(sorted(shapes.items()))}


def batch(mx, size, seed, **options):
    label = np.arange(size) % CLASSES
    return mx.io.DataBatch([array(mx, (size, FEATURES), seed)], [mx.nd.array(label)], **options)


def contexts(mx, count):
    return [mx.cpu(i) for i in range(count)]


def module_of(mx, load, size=7, **bind):
    module = mx.mod.Module(network(mx), context=contexts(mx, len(load)), work_load_list=load)
    module.bind([("data", (size, FEATURES))], [("softmax_label", (size,))], **bind)
    aux = {"norm_moving_mean": mx.nd.zeros((HIDDEN,)), "norm_moving_var": mx.nd.ones((HIDDEN,))}
    module.init_params(arg_params=parameters(mx), aux_params=aux)
    return module


def numbers(found, prefix, arrays):
    """Arrays in lists, lists in lists, or dicts, under names that tell where they were."""
    if isinstance(arrays, dict):
        arrays = sorted(arrays.items())
    elif isinstance(arrays, (list, tuple)):
        arrays = enumerate(arrays)
    elif arrays is None:
        found[prefix] = "none"
        return
    else:
        found[prefix] = arrays.asnumpy().copy()
        return
    for key, each in arrays:
        numbers(found, "%s.%s" % (prefix, key), each)


def by_name(names, arrays):
    return {name: arrays[i] for i, name in enumerate(names)}


def look_at(found, moment, module):
    group = module._exec_group
    numbers(found, moment + "/outputs", module.get_outputs())
    numbers(found, moment + "/by_context", module.get_outputs(merge_multi_context=False))
    numbers(found, moment + "/weights", by_name(group.param_names, group.param_arrays))
    numbers(found, moment + "/gradients", by_name(group.param_names, group.grad_arrays))
    numbers(found, moment + "/auxiliary", by_name(group.aux_names, group.aux_arrays))
    arguments, auxiliary = module.get_params()
    numbers(found, moment + "/own", dict(arguments, **auxiliary))


def exchange(mx, name):
    """Three steps; contexts share their gradients through a store, or do not."""
    kvstore, on_store, (optimizer, options), load = EXCHANGES[name]
    before = os.environ.get("MXNET_UPDATE_ON_KVSTORE")
    os.environ["MXNET_UPDATE_ON_KVSTORE"] = on_store
    try:
        module, found = module_of(mx, load, inputs_need_grad=True), {}
        module.init_optimizer(kvstore=kvstore, optimizer=optimizer, optimizer_params=options)
    finally:
        if before is None:
            del os.environ["MXNET_UPDATE_ON_KVSTORE"]
        else:
            os.environ["MXNET_UPDATE_ON_KVSTORE"] = before
    for step in range(3):
        one = batch(mx, 7, step)
        module.forward_backward(one)
        numbers(found, "input_gradients%d" % step, module.get_input_grads())
        numbers(found, "input_gradients%d_by_context" % step, module.get_input_grads(merge_multi_context=False))
        module.update()
        if step != 1:
            look_at(found, "step%d" % step, module)
    module.forward(one, is_train=False)
    numbers(found, "inference", module.get_outputs())
    updater = module._updater if not module._update_on_kvstore else module._kvstore._updater
    counts = module._optimizer._all_index_update_counts
    found["keys"] = str(sorted(map(str, updater.states)))
    found["counts"] = str(sorted("%s %s %s" % (d, k, n) for d in counts for k, n in counts[d].items()))
    found["names"] = str(["%s %s" % pair for pair in sorted(module._optimizer.idx2name.items())])
    found["output_shapes"] = str(module.output_shapes)
    return found


def splits(mx):
    """Which rows of a batch each context gets."""
    found = {}
    for size, load in SPLITS:
        symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=CLASSES, name="fc")
        module = mx.mod.Module(symbol, label_names=None, context=contexts(mx, len(load)), work_load_list=load)
        try:
            module.bind([("data", (size, FEATURES))])
            told = str([(part.start, part.stop) for part in module._exec_group.slices])
        except ValueError:
            told = "ValueError"
        found["%d over %s" % (size, load)] = told
    return found


def layouts(mx):
    """The batch on axis 1 of the data and of one output, on no axis of another input and another output."""
    sym, found = mx.sym, {}
    scale = sym.Reshape(sym.Variable("scale"), shape=(1, 1, CLASSES))
    scores = sym.FullyConnected(sym.Variable("data"), num_hidden=CLASSES, flatten=False, name="fc")
    scaled = sym.broadcast_mul(scores, scale, name="scaled", attr={"__layout__": "TNC"})
    total = sym.BlockGrad(sym.sum(scaled, axis=(0, 1)), name="total", attr={"__layout__": "C"})
    module = mx.mod.Module(sym.Group([scaled, total]), data_names=["data", "scale"], label_names=None,
                           context=contexts(mx, 2))  # fmt: skip
    described = [mx.io.DataDesc("data", (3, 5, FEATURES), layout="TNC"), mx.io.DataDesc("scale", (3,), layout="C")]
    module.bind(described, inputs_need_grad=True)
    module.init_params(arg_params=parameters(mx, {"fc_weight": (CLASSES, FEATURES), "fc_bias": (CLASSES,)}))
    module.forward(mx.io.DataBatch([array(mx, (3, 5, FEATURES), 1), array(mx, (3,), 2)], None))
    module.backward([array(mx, (3, 5, CLASSES), 3), mx.nd.zeros((CLASSES,))])
    look_at(found, "only", module)
    numbers(found, "input_gradients", module.get_input_grads())
    numbers(found, "input_gradients_by_context", module.get_input_grads(merge_multi_context=False))
    found["output_shapes"] = str(module.output_shapes)
    found["slices"] = str([(part.start, part.stop) for part in module._exec_group.slices])
    data = module._exec_group.data_arrays
    found["shapes"] = str([[tuple(place.shape) for _, place in places] for places in data])
    return found


def lists_of_batches(mx):
    """A batch for each context; metrics over labels that come the same way."""
    module, found = module_of(mx, [1, 1], size=6), {}
    module.init_optimizer(optimizer_params={"learning_rate": 0.3})
    metric = mx.metric.create(["acc", "ce"])
    for step in range(2):
        parts = [batch(mx, 3, 10 + step), batch(mx, 3, 20 + step)]
        module.forward_backward(parts)
        module.update()
        module.update_metric(metric, [part.label for part in parts], pre_sliced=True)
    look_at(found, "last", module)
    found["metric"] = np.array([value for _, value in metric.get_name_value()])
    return found


def metrics(mx):
    """Metrics that average over batches count every context as one."""
    found = {}
    for load in ([1], [1, 1], [1, 3]):
        sym = mx.sym
        scores = sym.FullyConnected(sym.Variable("data"), num_hidden=1, name="fc")
        symbol = sym.LinearRegressionOutput(scores, sym.Variable("lin_label"), name="lin")
        where = {"context": contexts(mx, len(load)), "work_load_list": load}
        module = mx.mod.Module(symbol, label_names=["lin_label"], **where)
        module.bind([("data", (7, FEATURES))], [("lin_label", (7, 1))])
        module.init_params(arg_params=parameters(mx, {"fc_weight": (1, FEATURES), "fc_bias": (1,)}))
        metric = mx.metric.create(["mse", "rmse", "mae"])
        for step in range(2):
            module.forward(mx.io.DataBatch([array(mx, (7, FEATURES), step)], None), is_train=False)
            module.update_metric(metric, [array(mx, (7, 1), 50 + step)])
        found[str(load)] = np.array([value for _, value in metric.get_name_value()])
    return found


def reshapes(mx):
    """Batches of other sizes in between; parameters, gradients and optimizer states stay."""
    module, found = module_of(mx, [1, 1]), {}
    module.init_optimizer(kvstore="local", optimizer_params={"learning_rate": 0.3, "momentum": 0.9})
    for step, size in enumerate((7, 4, 9, 7)):
        module.forward_backward(batch(mx, size, step))
        module.update()
        look_at(found, "step%d" % step, module)
        found["step%d/shapes" % step] = "%s %s" % (module.output_shapes, module._exec_group.slices)
    return found


def predictions(mx):
    """Over an iterator whose last batch is padded."""
    module, found = module_of(mx, [1, 1], size=4), {}
    data, label = values((10, FEATURES), 1), np.arange(10) % CLASSES
    batches = mx.io.NDArrayIter(data, label.astype("f4"), 4, label_name="softmax_label")
    numbers(found, "predict", module.predict(batches))
    found["score"] = np.array([value for _, value in module.score(batches, ["acc", "ce"])])
    return found


def recurrent(mx, rows):
    """Buckets by length; the last hidden state leaves as an output and comes back as a state."""

    def sym_gen(length):
        sym = mx.sym
        weights = {name: sym.Variable(name) for name in RECURRENT if name != "out_weight" and name != "out_bias"}
        steps = sym.SliceChannel(sym.Variable("data"), num_outputs=length, axis=1, squeeze_axis=True)
        hidden = sym.Variable("h0", shape=(0, HIDDEN))
        for t in range(length):
            own = sym.FullyConnected(steps[t], weights["i2h_weight"], weights["i2h_bias"], num_hidden=HIDDEN,
                                     name="t%d_i2h" % t)  # fmt: skip
            past = sym.FullyConnected(hidden, weights["h2h_weight"], weights["h2h_bias"], num_hidden=HIDDEN,
                                      name="t%d_h2h" % t)  # fmt: skip
            hidden = sym.Activation(own + past, act_type="tanh", name="t%d_out" % t)
        scores = sym.FullyConnected(hidden, num_hidden=CLASSES, name="out")
        loss = sym.SoftmaxOutput(scores, sym.Variable("softmax_label"), name="softmax")
        return sym.Group([loss, sym.BlockGrad(hidden, name="last")]), ("data",), ("softmax_label",)

    return sym_gen


RECURRENT = {
    "i2h_weight": (HIDDEN, 2), "i2h_bias": (HIDDEN,), "h2h_weight": (HIDDEN, HIDDEN), "h2h_bias": (HIDDEN,),
    "out_weight": (CLASSES, HIDDEN), "out_bias": (CLASSES,),
}  # fmt: skip


def recurrent_batch(mx, length, seed, rows=6):
    data, label = array(mx, (rows, length, 2), seed), mx.nd.array(np.arange(rows) % CLASSES)
    return mx.io.DataBatch(
        [data], [label], bucket_key=length, provide_data=[mx.io.DataDesc("data", data.shape)],
        provide_label=[mx.io.DataDesc("softmax_label", label.shape)],
    )  # fmt: skip


def recurrent_module(mx, count, **options):
    bind = {name[5:]: options.pop(name) for name in list(options) if name.startswith("bind_")}
    module = mx.mod.BucketingModule(recurrent(mx, 6), default_bucket_key=3, context=contexts(mx, count),
                                    state_names=["h0"], **options)  # fmt: skip
    module.bind([("data", (6, 3, 2))], [("softmax_label", (6,))], **bind)
    module.init_params(arg_params=parameters(mx, RECURRENT), aux_params={})
    return module


def carried_states(mx, count):
    """Truncated backpropagation over buckets: each batch starts from where the last one ended."""
    module, found = recurrent_module(mx, count), {}
    module.init_optimizer(kvstore="local", optimizer="adam", optimizer_params={"learning_rate": 0.05})
    module.set_states(value=0.25)
    for step, length in enumerate((3, 2, 2, 3, 4)):
        one = recurrent_batch(mx, length, step)
        module.switch_bucket(length, one.provide_data, one.provide_label)
        numbers(found, "step%d/before" % step, module.get_states(merge_multi_context=False))
        module.forward_backward(one)
        module.update()
        outputs = module.get_outputs(merge_multi_context=False)
        numbers(found, "step%d/outputs" % step, outputs)
        module.set_states(states=outputs[1:])
    numbers(found, "own", module.get_params()[0])
    return found


def added_gradients(mx, count):
    """Gradients that add up over buckets, beside some that do not and a fixed parameter."""
    found = {}
    requests = {"text": "add", "dict": {"i2h_weight": "add", "out_bias": "null"}}
    for name, given in sorted(requests.items()):
        module = recurrent_module(mx, count, fixed_param_names=["h2h_bias"], bind_grad_req=given)
        module.set_states(value=0.0)
        for step, length in enumerate((3, 2, 3)):
            module.forward_backward(recurrent_batch(mx, length, step))
        group = module._curr_module._exec_group
        numbers(found, name, by_name(group.param_names, group.grad_arrays))
        found[name + "/requests"] = str(sorted(group.grad_req.items()))
    return found


def shared_modules(mx):
    """A second module over the memory of the first, with its optimizer."""
    first, found = module_of(mx, [1, 1]), {}
    first.init_optimizer(kvstore=None, optimizer="adam", optimizer_params={"learning_rate": 0.05})
    second = mx.mod.Module(network(mx), context=contexts(mx, 2))
    second.bind([("data", (4, FEATURES))], [("softmax_label", (4,))], shared_module=first)
    for step in range(4):
        module, size = ((first, 7), (second, 4))[step % 2]
        module.forward_backward(batch(mx, size, step))
        module.update()
    look_at(found, "second", second)
    found["keys"] = str(sorted(map(str, first._updater.states)))
    return found


CASES = {
    **{"exchange_" + name: (exchange, name) for name in EXCHANGES},
    "splits": (splits,), "layouts": (layouts,), "lists_of_batches": (lists_of_batches,), "metrics": (metrics,),
    "reshapes": (reshapes,), "predictions": (predictions,), "shared_modules": (shared_modules,),
    "carried_states_1": (carried_states, 1), "carried_states_2": (carried_states, 2),
    "added_gradients_1": (added_gradients, 1), "added_gradients_2": (added_gradients, 2),
}  # fmt: skip


def run(mx, case):
    """Name -> array or text."""
    function, *arguments = CASES[case]
    return function(mx, *arguments)
