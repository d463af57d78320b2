"""Training that goes on from a whole checkpoint has, bit by bit, the numbers of training that never stopped."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import pytest
from small_models import BATCH, CLASSES, FEATURES, bucketed, classifier, values

import bucketmod as mx


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seed(number):
    mx.random.seed(number)
    np.random.seed(number)
    random.seed(number)


def rows(shuffle=True):
    data = values(18, FEATURES, seed=4)
    label = data[:, :CLASSES].argmax(axis=1).astype("f4")
    return mx.io.NDArrayIter(data, label, BATCH, shuffle=shuffle, last_batch_handle="roll_over")


def with_dropout():
    dropped = mx.sym.Dropout(mx.sym.Variable("data"), p=0.5)
    scores = mx.sym.FullyConnected(dropped, num_hidden=CLASSES, name="fc")
    return mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")


def adam():
    schedule = mx.lr_scheduler.FactorScheduler(3, 0.8, base_lr=0.05)
    return {"optimizer": "adam", "optimizer_params": {"lr_scheduler": schedule, "wd": 0.01}}


def momentum():
    return {"optimizer": "sgd", "optimizer_params": {"learning_rate": 0.1, "momentum": 0.9}}


def train(epochs, options, first_seed, **keywords):
    """A new module with new data, as a new process would have them."""
    seed(first_seed)
    data, checked = rows(), rows()
    module = mx.mod.Module(with_dropout())
    module.fit(data, checked, num_epoch=epochs, initializer=mx.init.Xavier(), **options(), **keywords)
    return module


def state_of(module):
    """Everything that training changed."""
    arrays = {name: array.asnumpy() for name, array in module.get_params()[0].items()}
    updater = module._updater
    for index, state in updater.states.items():
        for number, array in enumerate(state if isinstance(state, tuple) else (state,)):
            arrays[f"state {index} {number}"] = array.asnumpy()
    optimizer = updater.optimizer
    schedule = vars(optimizer.lr_scheduler) if optimizer.lr_scheduler else None
    return arrays, (optimizer.num_update, optimizer._all_index_update_counts, schedule)


def assert_same(first, second):
    (arrays, counts), (others, other_counts) = state_of(first), state_of(second)
    assert counts == other_counts
    assert sorted(arrays) == sorted(others)
    for name, array in arrays.items():
        assert array.tobytes() == others[name].tobytes(), name


@pytest.mark.parametrize("options", [adam, momentum])
def test_resumed_training_has_the_numbers_of_training_without_a_stop(options, caplog):
    caplog.set_level(logging.INFO)
    whole = train(4, options, 1)
    lines = [line for line in caplog.messages if "-accuracy=" in line]
    caplog.clear()
    train(2, options, 1, resume="auto", checkpoint_prefix="run")
    assert sorted(os.listdir(".")) == ["run-0001.checkpoint", "run-0002.checkpoint"]
    resumed = train(4, options, 99, resume="auto", checkpoint_prefix="run")  # nothing hangs on the seeds now
    assert_same(whole, resumed)
    assert [line for line in caplog.messages if "-accuracy=" in line] == lines
    assert any("Resuming after epoch 2" in line for line in caplog.messages)
    again = train(4, options, 5, resume="auto", checkpoint_prefix="run")  # all is done: nothing is trained
    assert_same(whole, again)


def test_checkpoints_every_few_epochs_and_at_the_end():
    train(5, momentum, 1, checkpoint_prefix="run", checkpoint_period=2)
    assert sorted(os.listdir(".")) == [f"run-000{epoch}.checkpoint" for epoch in (2, 4, 5)]


def test_a_damaged_newest_checkpoint_is_passed_over(caplog):
    whole = train(3, momentum, 1, checkpoint_prefix="run")
    size = os.path.getsize("run-0003.checkpoint")
    with open("run-0003.checkpoint", "r+b") as file:
        file.truncate(size - 1)
    resumed = train(3, momentum, 7, checkpoint_prefix="run", resume="auto")
    assert "run-0003.checkpoint" in caplog.text
    assert_same(whole, resumed)
    assert os.path.getsize("run-0003.checkpoint") == size  # written anew


def test_going_on_from_a_given_checkpoint_with_a_module_in_use():
    whole = train(4, momentum, 1, checkpoint_prefix="run")
    module = train(1, momentum, 50)
    chosen = mx.checkpoint.load("run", 2)
    module.fit(rows(), rows(), num_epoch=4, resume=chosen, **momentum())
    assert_same(whole, module)


def test_restoring_by_hand():
    whole = train(3, adam, 1, checkpoint_prefix="run")
    module = mx.mod.Module(with_dropout())
    data = rows()
    module.bind(data.provide_data, data.provide_label)
    module.init_params()
    with pytest.raises(mx.MXNetError, match="init_optimizer"):
        mx.checkpoint.load("run", 3).restore(module)
    module.init_optimizer(**adam())
    mx.checkpoint.load("run", 3).restore(module, [data])
    assert_same(whole, module)


def test_a_checkpoint_of_something_else_is_refused():
    train(1, momentum, 1, checkpoint_prefix="run")
    found = mx.checkpoint.load("run", 1)
    with pytest.raises(mx.MXNetError, match="SGD.*Adam"):
        train(2, adam, 1, resume=found)
    scheduled = lambda: {"optimizer_params": adam()["optimizer_params"]}  # noqa: E731
    with pytest.raises(mx.MXNetError, match="lr_scheduler"):
        train(2, scheduled, 1, resume=found)
    found.arg_params["stranger"] = mx.nd.zeros((1,))
    with pytest.raises(mx.MXNetError, match="stranger"):
        train(2, momentum, 1, resume=found)
    del found.arg_params["stranger"]
    found.arg_params["fc_bias"] = mx.nd.zeros((7,))
    with pytest.raises(mx.MXNetError, match="fc_bias"):
        train(2, momentum, 1, resume=found)
    del found.arg_params["fc_bias"]
    with pytest.raises(RuntimeError, match="fc_bias"):
        train(2, momentum, 1, resume=found)


def test_going_on_with_other_data_has_to_be_said():
    train(1, momentum, 1, checkpoint_prefix="run")
    more = mx.io.NDArrayIter(values(30, FEATURES), np.zeros(30), BATCH, shuffle=True)
    module = mx.mod.Module(with_dropout())
    with pytest.raises(mx.MXNetError, match="set its data"):
        module.fit(more, num_epoch=2, resume="auto", checkpoint_prefix="run", **momentum())
    found = mx.checkpoint.load("run", 1)
    found.data = []
    module.fit(more, num_epoch=2, resume=found, **momentum())
    assert module._optimizer.num_update == 4 + 8  # rolled over, then filled up


def test_arguments_that_make_no_sense():
    for wrong, error in (
        ({"resume": "auto"}, "checkpoint_prefix"),
        ({"resume": "newest", "checkpoint_prefix": "run"}, "expected"),
        ({"checkpoint_prefix": "run", "checkpoint_period": 0}, "checkpoint_period"),
    ):
        with pytest.raises(ValueError, match=error):
            train(1, momentum, 1, **wrong)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(1, momentum, 1, checkpoint_prefix="nowhere/run")


# ---- buckets


class Lengths(mx.io.DataIter):
    """Batches of three lengths, whose keys are of a kind of their own."""

    def __init__(self, kind):
        super().__init__(BATCH)
        self.kind, self.place = kind, 0
        self.default_bucket_key = kind(6)
        self.provide_data = [("data", (BATCH, 6, FEATURES))]
        self.provide_label = [("softmax_label", (BATCH,))]

    def reset(self):
        self.place = 0

    def next(self):
        if self.place == 6:
            raise StopIteration
        length = (3, 8, 6)[self.place % 3]
        data = values(BATCH, length, FEATURES, seed=self.place)
        label = data.mean(axis=1)[:, :CLASSES].argmax(axis=1)
        self.place += 1
        return mx.io.DataBatch(
            [mx.nd.array(data)], [mx.nd.array(label)], pad=0, bucket_key=self.kind(length),
            provide_data=[("data", data.shape)], provide_label=self.provide_label,
        )  # fmt: skip


KINDS = {
    "numbers": (lambda length: length, lambda key: key),
    "text": (lambda length: f"{length} words", lambda key: int(key.split()[0])),
    "tuples": (lambda length: (length, ("left", None)), lambda key: key[0]),
}


def bucketing(kind):
    to_key, to_length = KINDS[kind]
    return mx.mod.BucketingModule(lambda key: bucketed(to_length(key)), default_bucket_key=to_key(6)), Lengths(to_key)


def train_buckets(kind, epochs, **keywords):
    module, data = bucketing(kind)
    module.fit(data, num_epoch=epochs, eval_metric="ce", **adam(), **keywords)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucketing_module_with_keys_of_any_kind_resumes(kind):
    seed(3)
    whole = train_buckets(kind, 3)
    seed(3)
    train_buckets(kind, 1, checkpoint_prefix="b")
    resumed = train_buckets(kind, 3, checkpoint_prefix="b", resume="auto")
    assert_same(whole._curr_module, resumed._curr_module)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucketing_module_is_saved_and_loaded_with_its_optimizer(kind):
    seed(3)
    module = train_buckets(kind, 1)
    module.save_checkpoint("b", 1, save_optimizer_states=True)
    assert os.listdir(".") == ["b-0001.checkpoint"]
    to_key, to_length = KINDS[kind]
    again = mx.mod.BucketingModule.load(
        "b", 1, lambda key: bucketed(to_length(key)), to_key(6), load_optimizer_states=True
    )
    assert again.params_initialized and not again.binded
    assert sorted(map(str, again._buckets)) == sorted(map(str, module._buckets))
    data = Lengths(to_key)
    again.bind(data.provide_data, data.provide_label)
    again.init_optimizer(**adam())
    for each in (module, again):
        batches = Lengths(to_key)
        for batch in batches:
            each.forward_backward(batch)
            each.update()
    assert_same(module._curr_module, again._curr_module)


def test_module_checkpoint_of_a_bucketing_module_writes_no_optimizer_states():
    module = train_buckets("numbers", 1)
    mx.callback.module_checkpoint(module, "b", save_optimizer_states=True)(0)
    assert sorted(os.listdir(".")) == ["b-0001.params", *(f"b-{n}-symbol.json" for n in (3, 6, 8)), "b.buckets"]


def test_the_later_of_two_checkpoints_of_an_epoch_is_loaded():
    module = train_buckets("numbers", 1)
    module.save_checkpoint("b", 1)
    os.utime("b-0001.params", ns=(1, 1))
    module.set_params({name: array * 2 for name, array in module.get_params()[0].items()}, {})
    module.save_checkpoint("b", 1, save_optimizer_states=True)

    def loaded():
        return mx.mod.BucketingModule.load("b", 1, bucketed, 6).get_params()[0]["fc_weight"].asnumpy()

    np.testing.assert_array_equal(loaded(), module.get_params()[0]["fc_weight"].asnumpy())
    os.utime("b-0001.checkpoint", ns=(0, 0))
    np.testing.assert_array_equal(loaded() * 2, module.get_params()[0]["fc_weight"].asnumpy())


def test_checkpoints_of_other_modules_are_no_buckets():
    seed(1)
    module = mx.mod.Module(classifier())
    module.fit(rows(), num_epoch=1, checkpoint_prefix="m")
    with pytest.raises(mx.MXNetError, match="BucketingModule"):
        mx.mod.BucketingModule.load("m", 1, bucketed, 6)
    buckets, data = bucketing("numbers")
    with pytest.raises(mx.MXNetError, match="BucketingModule"):
        buckets.fit(data, num_epoch=2, resume="auto", checkpoint_prefix="m")


# ---- several contexts, states, chains


def train_on_two(epochs, first_seed, kvstore, **keywords):
    seed(first_seed)
    compression = {"type": "2bit", "threshold": 0.05} if kvstore == "device" else None
    module = mx.mod.Module(classifier(), context=[mx.cpu(0), mx.cpu(1)], compression_params=compression)
    module.fit(rows(), num_epoch=epochs, kvstore=kvstore, **adam(), **keywords)
    return module


def updates_of(module):
    updater = module._updater or module._kvstore._updater
    arrays = {str(index): [part.asnumpy().tolist() for part in state] for index, state in updater.states.items()}
    return arrays, updater.optimizer._all_index_update_counts, updater.optimizer.num_update


@pytest.mark.parametrize("kvstore", ["local", "device", None])  # on the store; compressed; each context on its own
def test_training_on_two_contexts_resumes(kvstore):
    whole = train_on_two(3, 1, kvstore)
    train_on_two(2, 1, kvstore, checkpoint_prefix="two")
    resumed = train_on_two(3, 9, kvstore, checkpoint_prefix="two", resume="auto")
    for name, array in whole.get_params()[0].items():
        np.testing.assert_array_equal(resumed.get_params()[0][name].asnumpy(), array.asnumpy())
    assert updates_of(whole) == updates_of(resumed)


@pytest.mark.filterwarnings("ignore:Parameters already initialized")
def test_a_module_in_use_that_updates_on_a_store_goes_on_from_a_checkpoint():
    whole = train_on_two(3, 1, "local", checkpoint_prefix="two")
    other = train_on_two(1, 5, "local")
    found = mx.checkpoint.load("two", 2)
    data = rows()
    found.restore(other, [data])
    other.fit(data, num_epoch=1, **adam())
    for name, array in whole.get_params()[0].items():
        np.testing.assert_array_equal(other.get_params()[0][name].asnumpy(), array.asnumpy())


def test_what_compression_has_not_sent_needs_compression():
    train_on_two(1, 1, "device", checkpoint_prefix="two")
    found = mx.checkpoint.load("two", 1)
    with pytest.raises(mx.MXNetError, match="compression"):
        train_on_two(2, 1, "local", resume=found)
    found.progress["residuals"] = {("fc_weight", 0): 7}
    with pytest.raises(mx.MXNetError, match="residuals"):
        train_on_two(2, 1, "device", resume=found)


def test_states_of_a_module_are_part_of_its_checkpoint():
    def bound():
        total = mx.sym.Variable("data") + mx.sym.Variable("state")
        scores = mx.sym.FullyConnected(total, num_hidden=CLASSES, name="fc")
        symbol = mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")
        module = mx.mod.Module(symbol, state_names=["state"])
        data = rows()
        module.bind(data.provide_data, data.provide_label)
        return module

    first, second = bound(), bound()
    for module in (first, second):
        module.init_params(mx.init.One())
    first.set_states(value=0.25)
    mx.checkpoint.save("s", 1, first)
    mx.checkpoint.load("s", 1).restore(second)
    assert (second.get_states(merge_multi_context=False)[0][0].asnumpy() == 0.25).all()


def make_chain():
    body = mx.mod.Module(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=FEATURES, name="body"),
                         label_names=None)  # fmt: skip
    chain = mx.mod.SequentialModule()
    return chain.add(body).add(mx.mod.Module(classifier()), take_labels=True, auto_wiring=True)


def train_chain(epochs, first_seed, **keywords):
    seed(first_seed)
    chain = make_chain()
    chain.fit(rows(), num_epoch=epochs, initializer=mx.init.Xavier(), **momentum(), **keywords)
    return chain


def test_a_chain_of_modules_resumes():
    whole = train_chain(3, 1)
    train_chain(1, 1, checkpoint_prefix="chain")
    resumed = train_chain(3, 8, checkpoint_prefix="chain", resume="auto")
    for first, second in zip(whole._modules, resumed._modules, strict=True):
        assert_same(first, second)
    with pytest.raises(mx.MXNetError, match="chain of 2"):
        resumed.set_progress({"modules": []})


# ---- modules of other kinds


def test_a_module_that_hides_its_optimizer_cannot_be_saved():
    class Own(mx.mod.BaseModule):
        def get_params(self):
            return {"w": mx.nd.ones((1,))}, {}

    module = Own()
    assert module.get_progress() == {"updater": None, "states": [], "residuals": {}}
    module.optimizer_initialized = True
    with pytest.raises(NotImplementedError, match="Own"):
        module.get_progress()
    with pytest.raises(mx.MXNetError, match="damaged"):
        module.set_progress(3)
