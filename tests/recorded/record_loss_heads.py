"""Records outputs and gradients of MXNet's loss heads, run by a Python with mxnet 1.9.1; writes loss_heads.npz."""

import itertools
import json
import os

import mxnet as mx
import numpy as np

SHAPES = {
    "plain": ((6, 5), (6,), {}),
    "flattened": ((3, 2, 4), (3, 2), {}),
    "multi_output": ((3, 5, 4), (3, 4), {"multi_output": True}),
    "preserve_shape": ((3, 4, 5), (3, 4), {"preserve_shape": True}),
    "probabilities": ((4, 3), (4, 3), {}),
}
rng = np.random.RandomState(7)
cases, arrays = [], {}


def record(operator, attributes, data_shape, label_shape, behind=None):
    """One head; ``behind`` makes the graph's output from the head's."""
    data = rng.randn(*data_shape).astype("float32")
    z, label = mx.sym.Variable("data"), mx.sym.Variable("label")
    values = {"data": mx.nd.array(data)}
    if label_shape is None:
        head = getattr(mx.sym, operator)(z, **attributes)
    else:
        top = data_shape[1 if attributes.get("multi_output") else -1]
        drawn = rng.rand(*label_shape) if label_shape == data_shape else rng.randint(0, top, label_shape)
        values["label"] = mx.nd.array(drawn.astype("float32"))
        head = getattr(mx.sym, operator)(z, label, **attributes)
    symbol = behind(head) if behind else head
    gradients = {name: mx.nd.zeros(value.shape) for name, value in values.items()}
    executor = symbol.bind(mx.cpu(), values, args_grad=gradients)
    out = executor.forward(is_train=True)[0]
    incoming = rng.randn(*out.shape).astype("float32")
    executor.backward([mx.nd.array(incoming)])
    stem = str(len(cases))
    cases.append({"operator": operator, "attributes": attributes})
    arrays[stem + ".data"] = data
    arrays[stem + ".output"] = out.asnumpy()
    arrays[stem + ".gradient"] = gradients["data"].asnumpy()
    if label_shape is not None:
        arrays[stem + ".label"] = values["label"].asnumpy()


for normalization, ignore, scale, smooth in itertools.product(
    ("null", "batch", "valid"), (False, True), (1.0, 2.5), (0.0, 0.1)
):
    for data_shape, label_shape, mode in SHAPES.values():
        options = {"normalization": normalization, "use_ignore": ignore, "ignore_label": 0.0, "grad_scale": scale,
                   "smooth_alpha": smooth}
        record("SoftmaxOutput", dict(options, **mode), data_shape, label_shape)
for normalization in ("null", "batch", "valid"):
    options = {"normalization": normalization, "grad_scale": 1.5, "valid_thresh": 0.2}
    record("MakeLoss", options, (6, 5), None)
    record("MakeLoss", options, (2, 3, 2), None)
    record("MakeLoss", options, (5,), None)

folder = os.path.dirname(os.path.abspath(__file__))
arrays["cases"] = np.array(json.dumps(cases))
np.savez_compressed(os.path.join(folder, "loss_heads.npz"), **arrays)
print(len(cases), "cases")
