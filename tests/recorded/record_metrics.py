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


if __name__ == "__main__":
    import mxnet

    recorded = {case: run(mxnet, case) for case in CASES}
    pathlib.Path(__file__).with_name("metrics.json").write_text(json.dumps(recorded, indent=0))
