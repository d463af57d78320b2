"""Records what MXNet 1.9.1's metrics give for the batches below (made by ``batches``, which the tests call too).

Run with MXNet's Python 3.9 environment: writes metrics.json beside this file.
"""

import json
import pathlib

import numpy as np

# name of the case: (metric and arguments, kind of batches)
CASES = {
    "accuracy": (["acc"], {}, "classes"),
    "accuracy of class numbers": (["accuracy"], {}, "numbers"),
    "accuracy on axis 2": (["acc"], {"axis": 2}, "sequences"),
    "top 3": (["top_k_accuracy"], {"top_k": 3}, "classes"),
    "f1 macro": (["f1"], {}, "binary"),
    "f1 micro": (["f1"], {"average": "micro"}, "binary"),
    "mcc macro": (["mcc"], {}, "binary"),
    "mcc micro": (["mcc"], {"average": "micro"}, "binary"),
    "perplexity": (["perplexity"], {"ignore_label": None}, "classes"),
    "perplexity ignoring 0": (["perplexity"], {"ignore_label": 0}, "classes"),
    "perplexity ignoring -1": (["perplexity"], {"ignore_label": -1}, "padded"),
    "cross entropy": (["ce"], {}, "classes"),
    "nll": (["nll_loss"], {}, "classes"),
    "mae": (["mae"], {}, "regression"),
    "mse": (["mse"], {}, "regression"),
    "rmse": (["rmse"], {}, "regression"),
    "mae of vectors": (["mae"], {}, "vectors"),
    "loss": (["loss"], {}, "regression"),
    "pearson macro": (["pearsonr"], {}, "regression"),
    "pearson micro": (["pearsonr"], {"average": "micro"}, "regression"),
    "pcc": (["pcc"], {}, "classes"),
    "composite": ([["acc", "ce"]], {}, "classes"),
    "accuracy of whole rows": (["acc"], {}, "flat"),
    "rmse of vectors": (["rmse"], {}, "vectors"),
    "mse of vectors": (["mse"], {}, "vectors"),
    "perplexity on axis 1": (["perplexity"], {"ignore_label": 2, "axis": 1}, "classes"),
    "nll eps": (["nll_loss"], {"eps": 0.1}, "classes"),
    "torch": (["torch"], {}, "regression"),
    "caffe": (["caffe"], {}, "regression"),
    "pcc of class numbers": (["pcc"], {}, "flat"),
    "pcc of two classes": (["pcc"], {}, "binary"),
    "f1 without positives": (["f1"], {}, "negative"),
    "mcc without positives": (["mcc"], {"average": "micro"}, "negative"),
    "two names in a list": ([["f1", ["acc", "mcc"]]], {}, "binary"),
}

# name of the case: what is made of the package; its str and get_config (or the error's class) are recorded
DESCRIBED = {
    "acc": lambda mx: mx.metric.create("acc", axis=0, name="right", output_names=["o"], label_names=["l"]),
    "top": lambda mx: mx.metric.create("top_k_acc", top_k=2),
    "ce": lambda mx: mx.metric.create("ce", 0.5),
    "perplexity": lambda mx: mx.metric.create("perplexity", 3),
    "pearsonr": lambda mx: mx.metric.create("pearsonr", average="micro"),
    "pcc": lambda mx: mx.metric.create("pcc"),
    "f1": lambda mx: mx.metric.create("f1", average="micro"),
    "composite": lambda mx: mx.metric.create(["acc", "ce"]),
    "composite of none": lambda mx: mx.metric.CompositeEvalMetric(),
    "dict": lambda mx: mx.metric.create({"metric": "acc", "axis": 2}),
    "json list": lambda mx: mx.metric.create('["ce", {"eps": 0.25}]'),
    "json object": lambda mx: mx.metric.create('{"metric": "ce", "eps": 0.25}'),
    "instance": lambda mx: mx.metric.create(mx.metric.create("mae")),
    "instance and more": lambda mx: mx.metric.create(mx.metric.create("mae"), name="x"),
    "unknown": lambda mx: mx.metric.create("nonsense"),
    "number": lambda mx: mx.metric.create(3),
    "function": lambda mx: mx.metric.create(len, name="length"),
    "top 1": lambda mx: mx.metric.create("top_k_acc", top_k=1),
}

# what raises, or what comes out: the metric, labels, predictions
EDGES = {
    "more labels": ("acc", {}, [[1], [1]], [[[0.1, 0.9]]]),
    "longer labels": ("acc", {}, [[1, 0, 1]], [[[0.1, 0.9]]]),
    "three classes f1": ("f1", {}, [[0, 1, 2]], [[[0.1, 0.9]] * 3]),
    "f1 of numbers": ("f1", {}, [[0, 1]], [[0, 1]]),
    "top 3 of 2 classes": ("top_k_acc", {"top_k": 3}, [[1]], [[[0.1, 0.9]]]),
    "top 2 of three axes": ("top_k_acc", {"top_k": 2}, [[1]], [[[[0.1, 0.9]]]]),
    "ce of another length": ("ce", {}, [[1, 0]], [[[0.1, 0.9]]]),
    "perplexity of another length": ("perplexity", {"ignore_label": None}, [[1, 0]], [[[0.1, 0.9]]]),
    "perplexity of more labels": ("perplexity", {"ignore_label": None}, [[1], [1]], [[[0.1, 0.9]]]),
    "perplexity of a class that is not": ("perplexity", {"ignore_label": None}, [[7, -3]], [[[0.2, 0.8]] * 2]),
    "mae of other shapes": ("mae", {}, [[[1, 2]]], [[[1], [2], [3]]]),
    "mae broadcast": ("mae", {}, [[[1, 2]]], [[[1], [2]]]),
    "mse of two arrays": ("mse", {}, [[1, 2], [3]], [[1, 3], [5]]),
    "pearson of other shapes": ("pearsonr", {}, [[1, 2]], [[[1, 2]]]),
    "pearson of a constant": ("pearsonr", {}, [[1, 1]], [[1, 2]]),
    "pcc of one class": ("pcc", {}, [[1, 1]], [[1, 1]]),
    "loss of two arrays": ("loss", {}, [], [[1, 2], [6]]),
    "accuracy of two arrays": ("acc", {}, [[1], [0, 0]], [[[0, 1]], [[0, 1], [1, 0]]]),
    "nothing": ("acc", {}, [], []),
}


def batches(kind):
    """Three batches of (label, prediction) as float32 numpy arrays."""
    rng = np.random.RandomState(len(kind))
    found = []
    for size in (7, 5, 8):
        classes = 2 if kind == "binary" else 4
        scores = rng.rand(size, classes)
        scores /= scores.sum(1, keepdims=True)
        label = rng.randint(0, classes, size)
        if kind == "numbers":
            scores = rng.randint(0, classes, size)
        elif kind == "flat":
            scores, label = rng.randint(0, 6, (size,)), rng.randint(0, 6, (size,))
        elif kind == "negative":
            scores, label = np.tile([0.8, 0.2], (size, 1)), np.zeros(size)
        elif kind == "sequences":
            scores, label = rng.rand(size, 3, classes), rng.randint(0, classes, (size, 3))
        elif kind == "padded":
            label = np.where(rng.rand(size) < 0.4, -1, label)
            scores[0] = [0, 0, 0, 1]
        elif kind == "regression":
            scores, label = rng.randn(size, 2), rng.randn(size, 2)
        elif kind == "vectors":
            scores, label = rng.randn(size, 1), rng.randn(size)
        found.append((np.asarray(label, np.float32), np.asarray(scores, np.float32)))
    return found


def run(mx, case):
    """Values after each batch: local, global; local totals are reset after the second."""
    arguments, keywords, kind = CASES[case]
    metric = mx.metric.create(*arguments, **keywords)
    values = [metric.get_name_value()]
    for number, (label, pred) in enumerate(batches(kind)):
        metric.update([mx.nd.array(label)], [mx.nd.array(pred)])
        values += [metric.get_name_value(), metric.get_global_name_value()]
        if number == 1:
            metric.reset_local()
            values.append(metric.get_name_value())
    return [[[name, float(value)] for name, value in pairs] for pairs in values]


def describe(mx, case):
    """[str, get_config()] of what the case makes, or the name of the error's class."""
    try:
        made = DESCRIBED[case](mx)
        return [str(made), plain(made.get_config())]
    except Exception as error:
        return type(error).__name__


def plain(value):
    """For JSON: other types become their name."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else type(value).__name__


def run_edge(mx, case):
    """The value as text, or the name of the error's class."""
    name, keywords, labels, preds = EDGES[case]
    metric = mx.metric.create(name, **keywords)
    try:
        metric.update([mx.nd.array(each) for each in labels], [mx.nd.array(each) for each in preds])
    except Exception as error:
        return type(error).__name__
    return "%.5g" % metric.get()[1]


if __name__ == "__main__":
    import mxnet

    recorded = {case: run(mxnet, case) for case in CASES}
    recorded["described"] = {case: describe(mxnet, case) for case in DESCRIBED}
    recorded["edges"] = {case: run_edge(mxnet, case) for case in EDGES}
    pathlib.Path(__file__).with_name("metrics.json").write_text(json.dumps(recorded, indent=0))
