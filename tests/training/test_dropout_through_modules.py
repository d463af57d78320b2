"""Dropout as a user of modules meets it: scaled, switched off in inference, and the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from processes import run_python

import bucketmod as mx

SHAPE = (64, 500)
RATIO = 0.25


@pytest.fixture(scope="module")
def module() -> mx.mod.Module:
    """Two dropouts side by side over the same data: their sum, and each alone."""
    data = mx.sym.Variable("data")
    first, second = mx.sym.Dropout(data, p=RATIO, name="first"), mx.sym.Dropout(data, p=RATIO, name="second")
    made = mx.mod.Module(mx.sym.Group([first, second]), label_names=None)
    made.bind([("data", SHAPE)], inputs_need_grad=True)
    made.init_params()
    return made


def run(module: mx.mod.Module, is_train: bool = True) -> list[np.ndarray]:
    """Outputs for data of ones."""
    module.forward(mx.io.DataBatch([mx.nd.ones(SHAPE)]), is_train=is_train)
    return [output.asnumpy().copy() for output in module.get_outputs()]


def test_kept_values_are_scaled_so_that_the_mean_stays(module) -> None:
    mx.random.seed(1)
    for output in run(module):
        assert set(np.unique(output)) == {np.float32(0), np.float32(1 / (1 - RATIO))}
        deviation = np.sqrt(RATIO / (1 - RATIO) / output.size)
        assert abs(output.mean(dtype=np.float64) - 1) < 5 * deviation
        assert np.abs(output.mean(axis=0) - 1).max() < 6 * np.sqrt(RATIO / (1 - RATIO) / SHAPE[0])


def test_inference_leaves_the_data_as_it_is(module) -> None:
    for output in run(module, is_train=False):
        assert (output == 1).all()


def test_gradients_pass_where_values_passed(module) -> None:
    outputs = run(module)
    heads = [np.full(SHAPE, 2, np.float32), np.full(SHAPE, -3, np.float32)]
    module.backward([mx.nd.array(head) for head in heads])
    expected = sum(head * output for head, output in zip(heads, outputs, strict=True))
    np.testing.assert_allclose(module.get_input_grads()[0].asnumpy(), expected, rtol=1e-6, atol=1e-6)


def test_nodes_and_steps_draw_their_own_masks_and_seeds_repeat_them(module) -> None:
    mx.random.seed(7)
    first, second = run(module), run(module)
    mx.random.seed(7)
    again = run(module), run(module)
    mx.random.seed(8)
    other = run(module)
    np.testing.assert_array_equal([first, second], again)
    masks = [*first, *second, *other]
    for index, mask in enumerate(masks):
        for different in masks[:index]:
            # Independent masks agree where both keep or both drop.
            assert abs((mask == different).mean() - (RATIO**2 + (1 - RATIO) ** 2)) < 0.02


TRAINING = """
import hashlib, json
import numpy as np
import bucketmod as mx

mx.random.seed(3)
data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
hidden = mx.sym.FullyConnected(data, num_hidden=1000, name="fc1")
hidden = mx.sym.Dropout(mx.sym.Activation(hidden, act_type="tanh"), p=0.5)
scores = mx.sym.FullyConnected(hidden, num_hidden=300, name="fc2")
module = mx.mod.Module(mx.sym.SoftmaxOutput(scores, label, name="softmax"))
module.bind([("data", (256, 40))], [("softmax_label", (256,))])
random = np.random.RandomState(0)
module.init_params(mx.init.Xavier(rnd_type="gaussian"))
parameters = module.get_params()[0]
module.set_params({name: mx.nd.array(random.randn(*a.shape) * 0.1) for name, a in parameters.items()}, {})
module.init_optimizer(optimizer="adam")
for step in range(4):
    batch = mx.io.DataBatch([mx.nd.array(random.randn(256, 40))], [mx.nd.array(random.randint(0, 300, 256))])
    module.forward_backward(batch)
    module.update()
digest = hashlib.sha256()
for name, value in sorted(module.get_params()[0].items()):
    digest.update(value.asnumpy().tobytes())
print(json.dumps(digest.hexdigest()))
"""


def test_the_number_of_threads_changes_nothing() -> None:
    found = {threads: run_python(TRAINING, TVM_NUM_THREADS=threads) for threads in ("1", "2", "3")}
    assert len(set(found.values())) == 1, found
