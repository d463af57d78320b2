"""Gradients of embeddings in modules: only the rows of the batch are written and read, and nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.runtime.gradient_rows import ALL_ROWS, COUNT, LIST, TRUSTED

WORDS, WIDTH, BATCH = 1100, 64, 4  # large enough for updates by rows
OPTIMIZERS = {
    "sgd": {"learning_rate": 0.5},
    "sgd with decay": {"learning_rate": 0.5, "wd": 0.1, "clip_gradient": 0.2},
    "sgd with momentum": {"learning_rate": 0.5, "momentum": 0.9},
    "adam": {"learning_rate": 0.1},
    "adagrad": {"learning_rate": 0.5},
    "adadelta": {},  # has no form by rows, and writes to the gradient
}


def sentence_classifier(length):
    words, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embedded = mx.sym.Embedding(words, input_dim=WORDS, output_dim=WIDTH, name="embed")
    scores = mx.sym.FullyConnected(mx.sym.mean(embedded, axis=1), num_hidden=3, name="fc")
    return mx.sym.SoftmaxOutput(scores, label, name="softmax"), ("data",), ("softmax_label",)


def mixed(length):
    """Length 5 also uses the mean of all rows, so that its gradient has values in each."""
    weight = mx.sym.Variable("embed_weight", shape=(WORDS, WIDTH))
    words, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    hidden = mx.sym.mean(mx.sym.Embedding(words, weight, input_dim=WORDS, output_dim=WIDTH, name="embed"), axis=1)
    if length == 5:
        hidden = mx.sym.broadcast_add(hidden, mx.sym.mean(weight, axis=0, keepdims=True))
    scores = mx.sym.FullyConnected(hidden, num_hidden=3, name="fc")
    return mx.sym.SoftmaxOutput(scores, label, name="softmax"), ("data",), ("softmax_label",)


def sentences(length, seed):
    random = np.random.default_rng(seed)
    words = mx.nd.array(random.integers(0, WORDS, (BATCH, length)))
    labels = mx.nd.array(random.integers(0, 3, BATCH))
    shapes = {"provide_data": [("data", (BATCH, length))], "provide_label": [("softmax_label", (BATCH,))]}
    return mx.io.DataBatch([words], [labels], bucket_key=length, **shapes)


def model(optimizer="sgd", sym_gen=sentence_classifier, grad_req="write", **options):
    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=5)
    module.bind([("data", (BATCH, 5))], [("softmax_label", (BATCH,))], grad_req=grad_req)
    random = np.random.default_rng(1)
    shapes = {"embed_weight": (WORDS, WIDTH), "fc_weight": (3, WIDTH), "fc_bias": (3,)}
    names = module.symbol.list_arguments()
    values = {name: random.standard_normal(shape).astype("f4") for name, shape in shapes.items() if name in names}
    module.init_params(arg_params={name: mx.nd.array(value) for name, value in values.items()})
    options = options or OPTIMIZERS.get(optimizer, {})
    module.init_optimizer(optimizer=optimizer.split()[0], optimizer_params=options)
    return module


def store(module):
    return module._curr_module._exec_group.memory.contexts[0].store


def table(module):
    return store(module).gradient_rows["embed_weight"]


def gradient_array(module):
    group = module._curr_module._exec_group
    return group.grad_arrays[group.param_names.index("embed_weight")][0]


def backward(module, length, seed):
    batch = sentences(length, seed)
    module.forward_backward(batch)
    return np.unique(batch.data[0].asnumpy()).astype(int)


def parameters(module):
    return {name: array.asnumpy() for name, array in module.get_params()[0].items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_by_rows_gives_the_numbers_of_whole_gradients(optimizer):
    by_rows, whole = model(optimizer), model(optimizer)
    gradient_array(whole).numpy_view()  # from now on it may be written to
    for step, length in enumerate([5, 3, 3, 5, 3, 5]):
        for module in (by_rows, whole):
            rows = backward(module, length, step)
            gradient = store(module).gradients["embed_weight"]
            assert np.flatnonzero(gradient.any(axis=1)).tolist() == rows.tolist(), "rows of other batches are zero"
            module.update()
    assert table(whole)[TRUSTED] == 0 and table(whole)[COUNT] == ALL_ROWS
    if optimizer != "adadelta":
        assert table(by_rows)[TRUSTED] == 1 and table(by_rows)[COUNT] == len(rows), "the table was not kept"
        assert sorted(table(by_rows)[LIST : LIST + len(rows)]) == rows.tolist()
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(by_rows)[name], value, err_msg=name)


def test_what_a_script_writes_to_a_gradient_is_applied_and_gone_with_the_next_batch():
    module = model("sgd", learning_rate=0.5, rescale_grad=1.0)
    for step in range(2):
        backward(module, 3, step)
        module.update()
    backward(module, 3, 2)
    before = parameters(module)["embed_weight"]
    gradient_array(module)[:] = 1.0
    module.update()
    np.testing.assert_array_equal(parameters(module)["embed_weight"], before - np.float32(0.5))
    rows = backward(module, 3, 3)
    assert np.flatnonzero(gradient_array(module).asnumpy().any(axis=1)).tolist() == rows.tolist()


def test_a_copy_of_a_gradient_costs_no_trust():
    module = model()
    backward(module, 3, 0)
    assert gradient_array(module).asnumpy().shape == (WORDS, WIDTH)
    assert table(module)[TRUSTED] == 1


def test_an_array_taken_before_sees_each_gradient():
    module = model()
    backward(module, 5, 0)
    array = gradient_array(module)
    for step in range(3):
        rows = backward(module, 3, step)
        assert np.flatnonzero(array.asnumpy().any(axis=1)).tolist() == rows.tolist()


def test_an_optimizer_written_in_python_sees_whole_gradients():
    class Clearing(mx.optimizer.SGD):
        """Takes a step, then leaves the gradient full of something else."""

        def update(self, index, weight, grad, state):
            super().update(index, weight, grad, state)
            for each in grad if isinstance(grad, list) else [grad]:
                each[:] = 7.0

    mx.optimizer.register(Clearing)
    plain, clearing = model("sgd", learning_rate=0.5), model("clearing", learning_rate=0.5)
    for step in range(4):
        for module in (plain, clearing):
            backward(module, 3, step)
            module.update()
    for name, value in parameters(plain).items():
        np.testing.assert_array_equal(parameters(clearing)[name], value, err_msg=name)


def test_gradients_that_add_up_are_whole():
    module, single = model(grad_req="add"), model()
    total = np.zeros((WORDS, WIDTH), np.float32)
    for step in range(3):
        backward(module, 3, step)
        backward(single, 3, step)
        total += store(single).gradients["embed_weight"]
    np.testing.assert_allclose(store(module).gradients["embed_weight"], total, rtol=1e-6, atol=1e-7)
    before = parameters(module)["embed_weight"]
    module.update()
    np.testing.assert_allclose(
        parameters(module)["embed_weight"], before - np.float32(0.5 / BATCH) * total, rtol=1e-5, atol=1e-6
    )


def test_a_bucket_whose_gradient_has_another_part_ends_the_trust():
    module, whole = model(sym_gen=mixed), model(sym_gen=mixed)
    gradient_array(whole).numpy_view()
    for step, length in enumerate([3, 3, 5, 3, 5, 3]):
        for each in (module, whole):
            rows = backward(each, length, step)
            each.update()
        if step == 1:
            assert table(module)[COUNT] == len(rows), "two buckets of length 3 keep the table"
        if length == 5:
            assert np.all(store(module).gradients["embed_weight"].any(axis=1)), "every row takes part"
    assert table(module)[TRUSTED] == 0
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(module)[name], value, err_msg=name)
