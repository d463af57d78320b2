"""``fit``, ``score`` and ``predict``: which public methods are called, in which order, with what."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from small_models import BATCH, FEATURES, batch, bucket_batch, labels, make_bucketing, make_module, numpy_params, values

import bucketmod as mx


class Recorder(mx.mod.BaseModule):
    """A module in Python that writes down what it is asked; one output that is its data."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __getattribute__(self, name):
        if name in ("bind", "init_params", "init_optimizer", "forward", "backward", "update", "update_metric",
                    "prepare", "get_params", "set_params", "install_monitor"):  # fmt: skip
            self.calls.append(name)
        return super().__getattribute__(name)

    symbol = "the symbol"

    def bind(self, data_shapes, label_shapes=None, for_training=True, force_rebind=False, **kwargs):
        assert for_training
        self.binded = True

    def init_params(self, initializer=None, arg_params=None, aux_params=None, allow_missing=False, force_init=False,
                    allow_extra=False):  # fmt: skip
        self.params_initialized = True

    def init_optimizer(self, kvstore="local", optimizer="sgd", optimizer_params=(), force_init=False):
        self.chosen = (kvstore, optimizer, dict(optimizer_params))

    def forward(self, data_batch, is_train=None):
        self.data = data_batch.data

    def backward(self, out_grads=None):
        assert out_grads is None

    def update(self):
        pass

    def get_outputs(self, merge_multi_context=True):
        return self.data

    def update_metric(self, eval_metric, labels, pre_sliced=False):
        eval_metric.update(labels, self.data)

    def get_params(self):
        return {"w": 1}, {}

    def set_params(self, *args, **kwargs):
        pass


class Batches(mx.io.DataIter):
    """Two batches that are worth 1 and 3 to the metric; counts how often it is rewound."""

    provide_data, provide_label = [("data", (2, 1))], [("softmax_label", (2,))]

    def __init__(self, count=2):
        super().__init__(2)
        self.count, self.place, self.resets = count, 0, 0

    def reset(self):
        self.place, self.resets = 0, self.resets + 1

    def next(self):
        if self.place == self.count:
            raise StopIteration
        self.place += 1
        value = mx.nd.full((2, 1), 2 * self.place - 1)
        return mx.io.DataBatch([value], [mx.nd.zeros((2,))], pad=0)


def mean_of_prediction(label, pred):
    return float(pred.mean())


def make_metric():
    return mx.metric.CustomMetric(mean_of_prediction, name="value")


def test_fit_calls_public_methods_in_order():
    module, train = Recorder(), Batches()
    module.fit(train, eval_metric=make_metric(), num_epoch=1, optimizer="adam", kvstore=None)
    step = ["forward", "backward", "update", "update_metric"]
    assert module.calls == [
        "bind", "init_params", "init_optimizer", *step, "prepare", *step, "get_params", "set_params",
    ]  # fmt: skip
    assert module.chosen == (None, "adam", {"learning_rate": 0.01})
    assert train.resets == 1  # at the end of the epoch, not before the first


def test_fit_reports_to_callbacks_and_log(caplog):
    caplog.set_level(logging.INFO)
    module, seen, epochs, ends = Recorder(), [], [], []

    def on_batch(param):
        seen.append((param.epoch, param.nbatch, param.eval_metric.get()[1], param.locals["self"] is module))
        assert "data_batch" in param.locals

    module.fit(
        Batches(), Batches(), eval_metric=make_metric(), begin_epoch=2, num_epoch=4,
        batch_end_callback=[on_batch, on_batch], epoch_end_callback=lambda *a: epochs.append(a),
        eval_end_callback=lambda param: ends.append((param.epoch, param.nbatch)),
        validation_metric=mx.metric.CustomMetric(mean_of_prediction, name="other"),
    )  # fmt: skip
    assert seen == [(2, 0, 1.0, True)] * 2 + [(2, 1, 2.0, True)] * 2 + [(3, 0, 1.0, True)] * 2 + [(3, 1, 2.0, True)] * 2
    assert epochs == [(2, "the symbol", {"w": 1}, {}), (3, "the symbol", {"w": 1}, {})]
    assert ends == [(2, 2), (3, 2)]
    for text in ("Epoch[2] Train-value=2.000000", "Epoch[3] Validation-other=2.000000", "Epoch[3] Time cost="):
        assert text in caplog.text


def test_training_values_in_the_log_are_those_of_the_whole_epoch(caplog):
    caplog.set_level(logging.INFO)
    Recorder().fit(
        Batches(), eval_metric="loss", num_epoch=1, batch_end_callback=lambda param: param.eval_metric.reset_local()
    )
    assert "Epoch[0] Train-loss=2.000000" in caplog.text


def test_fit_needs_epochs_and_batches():
    with pytest.raises(AssertionError, match="num_epoch"):
        Recorder().fit(Batches())
    with pytest.raises(StopIteration):
        Recorder().fit(Batches(0), num_epoch=1)


def test_fit_installs_a_monitor_after_bind():
    class Monitored(Recorder):
        def install_monitor(self, mon):
            self.mon = mon

    class Monitor:
        calls: list = []

        def tic(self):
            self.calls.append("tic")

        def toc_print(self):
            self.calls.append("toc")

    module = Monitored()
    module.fit(Batches(), eval_metric=make_metric(), num_epoch=1, monitor=Monitor())
    assert module.calls[:2] == ["bind", "install_monitor"]
    assert Monitor.calls == ["tic", "toc"] * 2


def test_score():
    module, data, ends = Recorder(), Batches(), []
    with pytest.raises(AssertionError):
        module.score(data, "loss")
    module.bind([])
    module.init_params()
    assert module.score(data, "loss") == [("loss", 2.0)]
    assert data.resets == 1
    assert module.score(data, "loss", reset=False)[0][1] != module.score(data, "loss")[0][1]  # nan: it was at the end
    metric = make_metric()
    metric.update([mx.nd.zeros((1,))], [mx.nd.full((1,), 100)])
    found = module.score(data, metric, num_batch=1, epoch=7, score_end_callback=lambda p: ends.append(p))
    assert found == [("value", 1.0)]
    assert (ends[0].epoch, ends[0].nbatch) == (7, 1)


def iterator(rows=10, batch_size=BATCH):
    return mx.io.NDArrayIter(values(rows, FEATURES, seed=3), labels(rows), batch_size, label_name="softmax_label")


def test_predict_joins_batches_without_padding():
    module = make_module()
    merged = module.predict(iterator())
    assert merged.shape == (10, 3)
    for row in (0, 4, 8):
        module.forward(mx.io.DataBatch([mx.nd.array(values(10, FEATURES, seed=3)[[row] * 4])], None), is_train=False)
        np.testing.assert_allclose(merged.asnumpy()[row], module.get_outputs()[0].asnumpy()[0], rtol=1e-5)
    (listed,) = module.predict(iterator(), always_output_list=True)
    np.testing.assert_array_equal(listed.asnumpy(), merged.asnumpy())
    parts = module.predict(iterator(), merge_batches=False)
    assert [part[0].shape for part in parts] == [(4, 3), (4, 3), (2, 3)]
    np.testing.assert_array_equal(parts[0][0].asnumpy(), merged.asnumpy()[:4])  # copies, not views
    assert module.predict(iterator(), num_batch=1).shape == (4, 3)
    assert module.predict(iterator(), num_batch=0) == []


def test_predict_on_one_array():
    module = make_module()
    data = values(BATCH, FEATURES)
    for given in (data, mx.nd.array(data)):
        assert module.predict(given).shape == (BATCH, 3)
    with pytest.raises(ValueError, match="DataIter"):
        module.predict([data])


def test_iter_predict_yields_views_and_batches():
    module = make_module()
    shapes = []
    for outputs, number, one in module.iter_predict(iterator()):
        shapes.append((outputs[0].shape[0], number, one.pad))
    assert shapes == [(4, 0, 0), (4, 1, 0), (2, 2, 2)]


def test_predict_refuses_to_join_different_numbers_of_outputs():
    module = Recorder()
    module.bind([])
    module.init_params()
    counts = iter((1, 2))
    module.get_outputs = lambda merge_multi_context=True: [mx.nd.ones((2, 1))] * next(counts)
    with pytest.raises(AssertionError, match="merge_batches"):
        module.predict(Batches())


class Buckets(mx.io.DataIter):
    """Batches of three lengths of one learnable problem: the class is the largest of the first features."""

    provide_data, provide_label = [("data", (BATCH, 6, FEATURES))], [("softmax_label", (BATCH,))]

    def __init__(self):
        super().__init__(BATCH)
        self.default_bucket_key = 6
        self.place = 0

    def reset(self):
        self.place = 0

    def next(self):
        if self.place == 9:
            raise StopIteration
        key = (6, 3, 8)[self.place % 3]
        one = bucket_batch(key, seed=self.place)
        one.pad = 0
        one.label = [mx.nd.array(one.data[0].asnumpy().mean(axis=1)[:, :3].argmax(axis=1))]
        self.place += 1
        return one


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fit_trains_a_bucketing_module(optimizer):
    mx.random.seed(0)
    module = make_bucketing(bind=False)
    module.fit(Buckets(), Buckets(), eval_metric="ce", num_epoch=8, optimizer=optimizer,
               optimizer_params={"learning_rate": 0.5 if optimizer == "sgd" else 0.05},
               batch_end_callback=mx.callback.Speedometer(BATCH, 3))  # fmt: skip
    assert module.score(Buckets(), "acc")[0][1] > 0.8
    assert sorted(module._buckets) == [3, 6, 8]


def test_fit_keeps_what_was_bound_and_initialised():
    module = make_module(optimizer=True)
    optimizer = module._optimizer
    start = numpy_params(module)["fc_weight"]
    with pytest.warns(UserWarning, match="already initialized"):
        module.fit(iterator(8), num_epoch=1, optimizer="adam", initializer=mx.init.One())
    assert module._optimizer is optimizer
    assert np.abs(numpy_params(module)["fc_weight"] - start).max() < 1


class Duck:
    """No BaseModule: just the methods that fit names. It counts how often its one number has been seen."""

    logger = logging
    symbol = "duck"

    def __init__(self):
        self.value, self.saved = 0, None

    def __getattr__(self, name):
        if name in ("bind", "init_params", "init_optimizer", "update", "prepare", "set_params"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)

    def forward_backward(self, data_batch):
        self.value += float(data_batch.data[0].asnumpy()[0, 0])

    def update_metric(self, eval_metric, labels):
        eval_metric.update(labels, [mx.nd.full((1,), self.value)])

    def get_params(self):
        return {"w": mx.nd.full((1,), self.value)}, {}

    def score(self, eval_data, eval_metric, score_end_callback=None, batch_end_callback=None, epoch=0):
        return [("ducks", epoch)]

    def get_progress(self):
        return {"value": self.value}

    def set_progress(self, progress):
        self.value = progress["value"]


def test_fit_works_with_any_object_that_has_its_methods(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    duck, prefix = Duck(), str(tmp_path / "duck")
    mx.mod.BaseModule.fit(duck, Batches(), Batches(), "loss", num_epoch=2, checkpoint_prefix=prefix)
    assert duck.value == 8
    assert "Epoch[1] Validation-ducks=1.000000" in caplog.messages
    again = Duck()
    again.optimizer_initialized = False
    again.get_params = lambda: ({"w": mx.nd.zeros((1,))}, {})
    mx.mod.BaseModule.fit(again, Batches(), None, "loss", num_epoch=3, checkpoint_prefix=prefix, resume="auto")
    assert again.value == 12


def test_any_method_that_fit_uses_can_be_replaced():
    class Halved(mx.mod.Module):
        steps = 0

        def forward_backward(self, data_batch):
            self.steps += 1
            super().forward_backward(data_batch)

        def update(self):
            if self.steps % 2 == 0:
                super().update()

    module = Halved(make_module(bind=False).symbol)
    module.fit(iterator(12), num_epoch=2, initializer=mx.init.Zero())
    assert module.steps == 6 and module._optimizer.num_update == 3


def test_forward_backward_is_both():
    module = Recorder()
    module.forward_backward(batch())
    assert module.calls == ["forward", "backward"]
