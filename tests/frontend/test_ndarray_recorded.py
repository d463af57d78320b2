"""NDArray against MXNet 1.9.1: the expressions of recorded/record_ndarray.py give the recorded results here."""

from typing import Any

import numpy as np
import pytest
from recorded_cases import recorded

import bucketmod as mx

RECORDED = recorded("ndarray")


def names() -> dict[str, Any]:
    nd = mx.nd
    return {
        "mx": mx,
        "nd": nd,
        "np": np,
        "a": nd.array(np.arange(24).reshape(2, 3, 4)),
        "i": nd.array([1, 2, 3], dtype="int32"),
        "f": nd.array([1.5, 2.5, 3.5]),
        "h": nd.array([-2.5, -0.5, 0.0, 0.5, 1.5]),
    }


def check(value: Any, expected: dict[str, Any]) -> None:
    if "dtype" in expected:
        assert np.dtype(value.dtype).name == expected["dtype"]
        assert list(value.shape) == expected["shape"]
        np.testing.assert_allclose(value.asnumpy().ravel(), expected["data"], rtol=2e-6, atol=1e-6)
    else:
        value = value.item() if isinstance(value, np.generic) else value
        assert (list(value) if isinstance(value, tuple) else value) == expected["value"]


def error_of(expected: dict[str, Any]) -> type[Exception]:
    kinds: dict[str, type[Exception]] = {
        "MXNetError": mx.MXNetError,
        "IndexError": IndexError,
        "ValueError": ValueError,
        "TypeError": TypeError,
    }
    return kinds[expected["error"]]


@pytest.mark.parametrize("text", RECORDED["expressions"])
def test_expression_gives_what_mxnet_gives(text: str) -> None:
    expected = RECORDED["expressions"][text]
    if "error" in expected:
        with pytest.raises(error_of(expected)):
            eval(text, names())
    else:
        check(eval(text, names()), expected)


@pytest.mark.parametrize("text", RECORDED["statements"])
def test_statement_changes_the_array_as_in_mxnet(text: str) -> None:
    expected = RECORDED["statements"][text]
    scope = {**names(), "a": mx.nd.array(np.arange(6).reshape(2, 3))}
    if "error" in expected:
        with pytest.raises(error_of(expected)):
            exec(text, scope)
    else:
        exec(text, scope)
        check(scope["a"], expected)
