"""Operators that graphs and arrays share: functions of ``mx.nd`` give what MXNet 1.9.1 recorded for graphs of one
operator in inference."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))
from operator_cases import all_cases, read_arrays  # noqa: E402

FUNCTIONS = set(dir(mx.nd))


@functools.cache
def single_operators():
    """Cases of one node whose operator is a function of mx.nd."""
    found = {}
    for name, (symbol, _, _) in all_cases(mx).items():
        nodes = [node for node in symbol.topological_nodes() if not node.is_variable]
        if len(nodes) == 1 and nodes[0].op_name in FUNCTIONS and len(symbol.list_outputs()) == 1:
            found[name] = nodes[0]
    return found


@functools.cache
def recorded():
    return read_arrays(RECORDED, "forward")


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize("name", list(single_operators()))
def test_function_gives_what_the_operator_gives(name):
    node = single_operators()[name]
    arrays = [mx.nd.array(recorded()[f"{name}/in/{child.name}"]) for child, _ in node.inputs]
    given = {key: value for key, value in node.parsed.items() if key in node.attrs and key != "num_args"}
    found = getattr(mx.nd, node.op_name)(*arrays, **given)
    expected = recorded()[f"{name}/out/0"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=5e-5, atol=5e-6)


def test_what_a_layer_does_not_do_is_refused():
    a = mx.nd.ones((1, 2, 3, 4))
    for call in (
        lambda: mx.nd.LeakyReLU(a, act_type="rrelu"),
        lambda: mx.nd.SequenceReverse(a, axis=1),
        lambda: mx.nd.Pooling(a, kernel=(2, 2), pool_type="lp"),
        lambda: mx.nd.UpSampling(a, scale=2, sample_type="bilinear"),
    ):
        with pytest.raises(mx.MXNetError):
            call()
