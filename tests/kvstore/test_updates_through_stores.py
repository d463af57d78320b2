"""``_create_kvstore`` and the update functions of ``mx.model`` that modules share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import bucketmod as mx
from bucketmod import model


def small(value: float, device: int = 0) -> mx.nd.NDArray:
    return mx.nd.full((2,), value, ctx=mx.cpu(device))


def test_a_store_is_made_for_several_devices_only():
    params = {"w": small(1)}
    assert model._create_kvstore("local", 1, params) == (None, False)
    assert model._create_kvstore(None, 2, params) == (None, False)
    store, on_store = model._create_kvstore("device", 2, params)
    assert (store.type, on_store) == ("device", True)
    own = mx.kv.create("local")
    assert model._create_kvstore(own, 1, params) == (own, True)
    assert model._create_kvstore(mx.kv.create("teststore"), 2, params)[1] is False
    with pytest.raises(NotImplementedError, match="dist_sync"):
        model._create_kvstore("dist_sync", 1, params)
    with pytest.raises(TypeError, match="int"):
        model._create_kvstore(3, 2, params)


def test_the_environment_and_large_parameters_leave_updates_to_the_devices(monkeypatch):
    large = {"w": SimpleNamespace(size=16 * 1024 * 1024 + 1)}
    assert model._create_kvstore("local", 2, large)[1] is False
    assert model._create_kvstore("device", 2, large)[1] is True
    monkeypatch.setenv("MXNET_UPDATE_ON_KVSTORE", "0")
    store, on_store = model._create_kvstore("device", 2, {"w": small(1)})
    assert (store.type, on_store) == ("device", False)


def test_sparse_parameters_need_a_store_with_an_optimizer():
    assert model._create_sparse_kvstore("local")[1] is True
    with pytest.raises(TypeError):
        model._create_sparse_kvstore(None)
    with pytest.raises(AssertionError):
        model._create_sparse_kvstore("teststore")


def arrays() -> tuple[list[list[mx.nd.NDArray]], list[list[mx.nd.NDArray | None]]]:
    params = [[small(0), small(0, 1)] for _ in range(3)]
    return params, [[small(1), small(2, 1)], [None, None], [small(3), small(4, 1)]]


def test_updates_on_the_store_reach_every_device():
    params, grads = arrays()
    names = ["a", "b", "c"]
    for update in (model._update_params_on_kvstore, model._update_params_on_kvstore_nccl):
        store = mx.kv.create("device")
        store.set_optimizer(mx.optimizer.SGD(learning_rate=1.0))
        model._initialize_kvstore(store, params, {name: small(10) for name in names}, names, True)
        assert [array.asnumpy()[0] for array in params[1]] == [10, 10]
        update(params, grads, store, names)
        assert [[array.asnumpy()[0] for array in each] for each in params] == [[7, 7], [10, 10], [3, 3]]
        assert set(store._updater.states) == {"a", "c"}


@pytest.mark.parametrize("with_store", [True, False])
def test_updates_on_the_devices_have_states_of_their_own(with_store):
    params, grads = arrays()
    names, store = ["a", "b", "c"], None
    if with_store:
        store = mx.kv.create("local")
        model._initialize_kvstore(store, params, {name: small(10) for name in names}, names, False)
        assert params[0][0].asnumpy()[0] == 0  # the store alone has the values
    updater = mx.optimizer.get_updater(mx.optimizer.SGD(learning_rate=1.0))
    model._update_params(params, grads, updater, 2, store, names)
    expected = [[-3, -3], [0, 0], [-7, -7]] if with_store else [[-1, -2], [0, 0], [-3, -4]]
    assert [[array.asnumpy()[0] for array in each] for each in params] == expected
    assert set(updater.states) == {0, 1, 4, 5}
    assert updater.optimizer._all_index_update_counts == {0: {0: 1, 4: 1}, 1: {1: 1, 5: 1}}
