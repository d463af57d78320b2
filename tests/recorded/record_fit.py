"""Records what MXNet 1.9.1's ``fit``, ``score`` and ``predict`` call, in which order, and what they log.

The cases are functions of the package (``mx``): a module written in Python, data and callbacks that write down what
happens to them. Run with MXNet's Python 3.9 environment: writes fit.json beside this file.
"""

import json
import logging
import pathlib
import re

import numpy as np

NUMBER = re.compile(r"(Time cost=|Speed: )[0-9.]+|inf")


def make_classes(mx, seen):
    """A module, an iterator, a metric and a monitor that append what they are asked to ``seen``."""

    class Recorder(mx.mod.BaseModule):
        symbol = "the symbol"

        def bind(self, **keywords):
            seen.append(["bind", {key: str(value) for key, value in sorted(keywords.items())}])
            self.binded = True

        def init_params(self, **keywords):
            seen.append(["init_params", sorted(keywords)])
            self.params_initialized = True

        def init_optimizer(self, **keywords):
            seen.append(["init_optimizer", {key: str(value) for key, value in sorted(keywords.items())}])
            self.optimizer_initialized = True

        def install_monitor(self, mon):
            seen.append("install_monitor")

        def forward_backward(self, data_batch):
            seen.append("forward_backward")
            super().forward_backward(data_batch)

        def forward(self, data_batch, is_train=None):
            seen.append(["forward", is_train])
            self.data = (data_batch[0] if isinstance(data_batch, list) else data_batch).data

        def backward(self, out_grads=None):
            seen.append(["backward", out_grads])

        def update(self):
            seen.append("update")

        def prepare(self, data_batch, sparse_row_id_fn=None):
            seen.append(["prepare", sparse_row_id_fn])

        def get_outputs(self, merge_multi_context=True):
            seen.append("get_outputs")
            return self.data

        def update_metric(self, eval_metric, labels, pre_sliced=False):
            seen.append(["update_metric", pre_sliced])
            labels = labels[0] if pre_sliced else labels
            eval_metric.update(labels, self.data)

        def get_params(self):
            seen.append("get_params")
            return {"w": 1}, {"m": 2}

        def set_params(self, *given, **keywords):
            seen.append(["set_params", [str(each) for each in given], sorted(keywords)])

    class Batches(mx.io.DataIter):
        def __init__(self, name, count=2, listed=False):
            super().__init__(2)
            self.name, self.count, self.listed, self.place = name, count, listed, 0
            self.provide_data = [mx.io.DataDesc("data", (2, 1))]
            self.provide_label = [mx.io.DataDesc("softmax_label", (2,))]

        def reset(self):
            seen.append(self.name + " reset")
            self.place = 0

        def next(self):
            if self.place == self.count:
                seen.append(self.name + " ends")
                raise StopIteration
            seen.append(self.name + " next")
            self.place += 1
            data = mx.nd.array(np.full((2, 1), 2 * self.place - 1))
            batch = mx.io.DataBatch([data], [mx.nd.array(np.zeros(2))], pad=self.place - 1)
            return [batch] if self.listed else batch

    class Metric(mx.metric.EvalMetric):
        def __init__(self, name):
            super().__init__(name, has_global_stats=True)

        def update(self, labels, preds):
            self.sum_metric += float(preds[0].asnumpy().mean())
            self.global_sum_metric += float(preds[0].asnumpy().mean())
            self.num_inst += 1
            self.global_num_inst += 1

        def reset(self):
            seen.append("metric reset")
            super().reset()

        def get_name_value(self):
            seen.append("metric read")
            return super().get_name_value()

        def get_global_name_value(self):
            seen.append("metric read globally")
            return super().get_global_name_value()

    class Monitor:
        def tic(self):
            seen.append("tic")

        def toc_print(self):
            seen.append("toc_print")

    return Recorder, Batches, Metric, Monitor


def note(seen, name):
    """A callback that writes down what it gets."""

    def callback(param):
        value = param.eval_metric.get()[1]
        seen.append([name, param.epoch, param.nbatch, round(float(value), 5)])

    return callback


def epoch_note(seen):
    return lambda *given: seen.append(["epoch end", [str(each) for each in given]])


def fit_simple(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train"), eval_metric=Metric("value"), num_epoch=2)


def fit_whole(mx, seen):
    Recorder, Batches, Metric, Monitor = make_classes(mx, seen)
    Recorder().fit(
        Batches("train", 3), Batches("eval"), eval_metric=Metric("value"), validation_metric=Metric("other"),
        epoch_end_callback=[epoch_note(seen), epoch_note(seen)], monitor=Monitor(), begin_epoch=3, num_epoch=5,
        batch_end_callback=[note(seen, "batch end"), lambda param: param.eval_metric.reset_local()],
        eval_end_callback=note(seen, "eval end"), eval_batch_end_callback=note(seen, "eval batch end"),
        kvstore="device", optimizer="adam", optimizer_params={"learning_rate": 0.5}, allow_missing=True,
        force_rebind=True, force_init=True,
    )  # fmt: skip


def fit_shared_metric(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train"), Batches("eval", 1), eval_metric=Metric("value"), num_epoch=1)


def fit_lists(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train", listed=True), eval_metric=Metric("value"), num_epoch=1)


def fit_empty(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train", 0), eval_metric=Metric("value"), num_epoch=1)


def fit_no_epochs(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train"), eval_metric=Metric("value"), begin_epoch=4, num_epoch=4)


def fit_speedometer(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train", 5), eval_metric=Metric("value"), num_epoch=2,
                   batch_end_callback=mx.callback.Speedometer(2, 2))  # fmt: skip


def fit_speedometer_without_reset(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    Recorder().fit(Batches("train", 5), Batches("eval"), eval_metric=Metric("value"), num_epoch=1,
                   batch_end_callback=[mx.callback.Speedometer(2, 2, False), mx.callback.log_train_metric(2, True)],
                   eval_end_callback=mx.callback.LogValidationMetricsCallback())  # fmt: skip


def score(mx, seen):
    Recorder, Batches, Metric, _ = make_classes(mx, seen)
    module = Recorder()
    module.binded = module.params_initialized = True
    data = Batches("eval", 3)
    seen.append(module.score(data, Metric("value"), num_batch=2, score_end_callback=note(seen, "end"), epoch=6))
    seen.append(module.score(data, Metric("value"), reset=False, batch_end_callback=note(seen, "batch end")))


def predict(mx, seen):
    Recorder, Batches, _, _ = make_classes(mx, seen)
    module = Recorder()
    module.binded = module.params_initialized = True
    seen.append(module.predict(Batches("eval")).asnumpy().tolist())
    seen.append([[each.asnumpy().tolist() for each in part] for part in module.predict(Batches("eval"), 1, False)])
    seen.append([each.asnumpy().tolist() for each in module.predict(Batches("eval"), always_output_list=True)])
    seen.append(module.predict(Batches("eval", 0)))
    for outputs, number, batch in module.iter_predict(Batches("eval"), num_batch=2):
        seen.append([outputs[0].shape[0], number, batch.pad])


CASES = {function.__name__: function for function in (
    fit_simple, fit_whole, fit_shared_metric, fit_lists, fit_empty, fit_no_epochs, fit_speedometer,
    fit_speedometer_without_reset, score, predict,
)}  # fmt: skip


def run(mx, case):
    """{"calls": what was called, "log": lines, "error": class of what was raised}."""
    seen, lines = [], []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    error = None
    try:
        CASES[case](mx, seen)
    except BaseException as raised:
        error = type(raised).__name__
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = [NUMBER.sub(lambda found: (found[1] or "") + "x", line) for line in lines]
    return json.loads(json.dumps({"calls": seen, "log": lines, "error": error}))


def names_of_locals(mx):
    """What callbacks find in ``param.locals``: names for a batch of fit, a batch of score, the end of score."""
    Recorder, Batches, Metric, _ = make_classes(mx, [])
    found = {}

    def keep(name):
        return lambda param: found.setdefault(name, sorted(param.locals))

    Recorder().fit(Batches("train"), Batches("eval"), eval_metric=Metric("value"), num_epoch=1,
                   batch_end_callback=keep("fit"), eval_batch_end_callback=keep("score"),
                   eval_end_callback=keep("score end"))  # fmt: skip
    return found


if __name__ == "__main__":
    import mxnet

    recorded = {case: run(mxnet, case) for case in CASES}
    recorded["locals"] = names_of_locals(mxnet)
    pathlib.Path(__file__).with_name("fit.json").write_text(json.dumps(recorded, indent=0))
