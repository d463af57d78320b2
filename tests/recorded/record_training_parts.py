"""Records optimizers, schedules, callbacks' log lines and iterators of MXNet 1.9.1.

The cases are functions of the package (``mx``); the tests run them with ours. Run with MXNet's Python 3.9
environment: writes training_parts.json, mxnet_*.params and mxnet_*.states beside this file.
"""

import json
import logging
import pathlib
import re

import numpy as np

OPTIMIZERS = {
    "sgd": ("sgd", {"learning_rate": 0.1}),
    "sgd with decay": ("sgd", {"learning_rate": 0.1, "wd": 0.02, "rescale_grad": 0.25}),
    "sgd clipped": ("sgd", {"learning_rate": 0.1, "wd": 0.1, "clip_gradient": 0.5}),
    "sgd clip 0": ("sgd", {"learning_rate": 0.1, "clip_gradient": 0.0}),
    "sgd clip negative": ("sgd", {"learning_rate": 0.1, "clip_gradient": -1.0}),
    "sgd momentum": ("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    "sgd momentum all": (
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.05, "clip_gradient": 0.7, "rescale_grad": 0.5},
    ),
    "sgd negative momentum": ("sgd", {"learning_rate": 0.1, "momentum": -0.5}),
    "ccsgd": ("ccsgd", {"momentum": 0.5}),
    "adam": ("adam", {}),
    "adam all": (
        "adam",
        {"learning_rate": 0.05, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "wd": 0.1, "clip_gradient": 0.6,
         "rescale_grad": 0.5},
    ),
    "adam late": ("adam", {"learning_rate": 0.05, "begin_num_update": 100}),
    "test": ("test", {"rescale_grad": 0.5}),
}  # fmt: skip

SCHEDULES = {
    "factor": ("FactorScheduler", {"step": 3, "factor": 0.5, "base_lr": 0.8}),
    "factor floor": ("FactorScheduler", {"step": 1, "factor": 0.1, "stop_factor_lr": 1e-3, "base_lr": 1.0}),
    "factor warm-up": ("FactorScheduler", {"step": 4, "factor": 0.5, "warmup_steps": 5, "warmup_begin_lr": 0.001}),
    "factor constant warm-up": (
        "FactorScheduler",
        {"step": 4, "factor": 0.5, "warmup_steps": 5, "warmup_begin_lr": 0.001, "warmup_mode": "constant"},
    ),
    "multi": ("MultiFactorScheduler", {"step": [2, 5, 9], "factor": 0.5, "base_lr": 0.8}),
    "poly": ("PolyScheduler", {"max_update": 10, "base_lr": 0.8, "pwr": 2, "final_lr": 0.01}),
    "poly warm-up": ("PolyScheduler", {"max_update": 10, "base_lr": 0.8, "warmup_steps": 3}),
    "cosine": ("CosineScheduler", {"max_update": 10, "base_lr": 0.8, "final_lr": 0.1}),
    "cosine warm-up": ("CosineScheduler", {"max_update": 10, "warmup_steps": 3, "warmup_begin_lr": 0.002}),
}

ITERATORS = {
    "pad": {"batch_size": 3},
    "pad beyond": {"batch_size": 25},
    "discard": {"batch_size": 3, "last_batch_handle": "discard"},
    "roll over": {"batch_size": 3, "last_batch_handle": "roll_over"},
    "roll over 4": {"batch_size": 4, "last_batch_handle": "roll_over"},
    "shuffled": {"batch_size": 3, "shuffle": True},
    "shuffled roll over": {"batch_size": 4, "shuffle": True, "last_batch_handle": "roll_over"},
}


def run_optimizer(mx, case):
    """Two parameters after each of 12 updates (mixed order), multipliers from names and settings."""
    name, arguments = OPTIMIZERS[case]
    rng = np.random.RandomState(3)
    optimizer = mx.optimizer.create(name, param_idx2name={0: "a_weight", 1: "a_bias"}, **arguments)
    optimizer.set_lr_mult({"a_bias": 2.0})
    updater = mx.optimizer.get_updater(optimizer)
    weights = [mx.nd.array(rng.randn(2, 3)), mx.nd.array(rng.randn(4))]
    values = []
    for step in range(12):
        index = 0 if step % 3 == 0 else 1
        updater(index, mx.nd.array(rng.randn(*weights[index].shape)), weights[index])
        values.append(weights[index].asnumpy().ravel().tolist())
    return values


def run_schedule(mx, case):
    name, arguments = SCHEDULES[case]
    schedule = getattr(mx.lr_scheduler, name)(**arguments)
    return [schedule(number) for number in range(1, 15)]


def run_iterator(mx, case):
    """Rows, labels and padding of the batches of three epochs."""
    np.random.seed(5)
    data = {"x": np.arange(20).reshape(10, 2), "b": np.arange(10) * 10}
    iterator = mx.io.NDArrayIter(data, np.arange(10), **ITERATORS[case])
    provided = [[d.name, list(d.shape), np.dtype(d.dtype).name, d.layout] for d in iterator.provide_data]
    epochs = []
    for _ in range(3):
        batches = []
        for batch in iterator:
            arrays = [array.asnumpy().tolist() for array in list(batch.data) + list(batch.label)]
            batches.append([arrays, batch.pad, batch.index])
        epochs.append(batches)
        iterator.reset()
    return [provided, epochs]


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(re.sub(r"Speed: \S+", "Speed: x", record.getMessage()))


def _params(mx, nbatch, epoch, metric):
    return mx.model.BatchEndParam(epoch=epoch, nbatch=nbatch, eval_metric=metric, locals=None)


def callbacks(mx):
    return {
        "speedometer": mx.callback.Speedometer(4, frequent=2),
        "speedometer without reset": mx.callback.Speedometer(4, frequent=2, auto_reset=False),
        "log_train_metric": mx.callback.log_train_metric(2),
        "log_train_metric with reset": mx.callback.log_train_metric(3, auto_reset=True),
        "progress bar": mx.callback.ProgressBar(total=5, length=12),
        "validation": mx.callback.LogValidationMetricsCallback(),
    }


def run_callback(mx, case, with_metric):
    """Log lines of two epochs of seven batches, with a metric of two values or none."""
    handler, root = _Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        callback = callbacks(mx)[case]
        metric = mx.metric.create(["acc", "loss"]) if with_metric else None
        for epoch in range(2):
            for nbatch in range(7):
                if metric is not None:
                    metric.update([mx.nd.array([0, 1])], [mx.nd.array([[0.5, 0.25], [nbatch, 1.0]])])
                callback(_params(mx, nbatch, epoch, metric))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return handler.lines


def arrays(mx):
    rng = np.random.RandomState(7)
    dtypes = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
    found = {"arg:" + d: mx.nd.array(rng.randint(0, 100, (2, 3)), dtype=d) for d in dtypes}
    found["aux:näme"] = mx.nd.array(rng.randn(2, 1, 4))
    found["arg:cpu1"] = mx.nd.array([1, 2, 3], ctx=mx.cpu(1))
    return found


def trained_updater(mx, name, keys):
    optimizer = mx.optimizer.create(name, lr_scheduler=mx.lr_scheduler.FactorScheduler(2, 0.5), **(
        {"momentum": 0.9} if name == "sgd" else {}))  # fmt: skip
    updater = mx.optimizer.get_updater(optimizer)
    for step in range(3):
        for key in keys:
            updater(key, mx.nd.array([0.5, -step]), mx.nd.array([1.0, 2.0]))
    return updater


if __name__ == "__main__":
    import mxnet

    folder = pathlib.Path(__file__).parent
    recorded = {
        "optimizers": {case: run_optimizer(mxnet, case) for case in OPTIMIZERS},
        "schedules": {case: run_schedule(mxnet, case) for case in SCHEDULES},
        "iterators": {case: run_iterator(mxnet, case) for case in ITERATORS},
        "callbacks": {
            case: [run_callback(mxnet, case, with_metric) for with_metric in (True, False)] for case in callbacks(mxnet)
        },
    }
    (folder / "training_parts.json").write_text(json.dumps(recorded))
    mxnet.nd.save(str(folder / "mxnet_dict.params"), arrays(mxnet))
    mxnet.nd.save(str(folder / "mxnet_list.params"), list(arrays(mxnet).values()))
    for name in ("sgd", "adam"):
        updater = trained_updater(mxnet, name, [0, "a_weight"])
        (folder / f"mxnet_{name}.states").write_bytes(updater.get_states())
        (folder / f"mxnet_{name}_full.states").write_bytes(updater.get_states(dump_optimizer=True))
