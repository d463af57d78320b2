"""Stores: keys, sums over devices, updaters and optimizers, types and refusals."""

from __future__ import annotations

import numpy as np
import pytest

import bucketmod as mx


def filled(value: float, device: int = 0, shape: tuple[int, ...] = (2,), **options: str) -> mx.nd.NDArray:
    return mx.nd.full(shape, value, ctx=mx.cpu(device), **options)


def pulled(store: mx.kv.KVStore, key: int | str) -> list[float]:
    out = filled(-1)
    store.pull(key, out=out)
    return out.asnumpy().tolist()


@pytest.fixture
def store() -> mx.kv.KVStore:
    made = mx.kv.create("local")
    made.init([3, 5], [filled(1), filled(2)])
    return made


def test_a_value_is_a_copy_of_what_it_was_made_from(store):
    first = filled(4)
    store.init(7, first)
    first[:] = 9
    assert pulled(store, 7) == [4, 4]
    store.push(7, first)
    first[:] = 10
    assert pulled(store, 7) == [9, 9]


def test_pushed_arrays_are_added_up_and_replace_the_value(store):
    store.push(3, [filled(1), filled(2, 1), filled(4, 2)])
    assert pulled(store, 3) == [7, 7]
    store.push([3, 5], [[filled(1), filled(2, 1)], filled(8)])
    assert (pulled(store, 3), pulled(store, 5)) == ([3, 3], [8, 8])
    store.push([3, 3], [filled(1), filled(5)])  # one key twice: its arrays belong together
    assert pulled(store, 3) == [6, 6]
    store.push(3, [])
    assert pulled(store, 3) == [6, 6]


def test_pull_fills_one_array_or_many_in_their_dtype(store):
    outs = [filled(0), filled(0, 1, dtype="float64")]
    store.pull(5, out=outs)
    assert [out.asnumpy().tolist() for out in outs] == [[2, 2], [2, 2]]
    assert outs[1].dtype == np.float64
    store.pull([3, 5], out=[outs[0], [outs[1]]])
    assert [out.asscalar() for out in (outs[0][:1], outs[1][:1])] == [1, 2]


def test_pushpull_writes_sums_back_where_there_is_no_out(store):
    grads = [filled(3), filled(4, 1)]
    store.pushpull(3, grads)
    assert [grad.asnumpy().tolist() for grad in grads] == [[7, 7], [7, 7]]
    out = filled(0)
    store.pushpull(3, [filled(1), filled(1, 1)], out=out)
    assert out.asnumpy().tolist() == pulled(store, 3) == [2, 2]


def test_broadcast_is_init_and_pull(store):
    outs = [filled(0), filled(0, 1)]
    store.broadcast(9, filled(3), out=outs)
    assert [out.asnumpy().tolist() for out in outs] == [[3, 3], [3, 3]]
    with pytest.raises(mx.MXNetError, match="duplicate init of key 9"):
        store.broadcast(9, filled(3), out=outs)


def test_an_updater_gets_the_sum_and_the_value(store):
    calls = []

    def updater(key, pushed, value):
        calls.append((key, pushed.asnumpy().tolist()))
        value += 10 * pushed

    store._set_updater(updater)
    store.push(3, [filled(1), filled(2, 1)])
    store.push([3, 5], [filled(1), [filled(1), filled(1, 1)]])
    assert calls == [(3, [3, 3]), (3, [1, 1]), (5, [2, 2])]
    assert (pulled(store, 3), pulled(store, 5)) == ([41, 41], [22, 22])


def test_an_optimizer_on_the_store_updates_by_key(tmp_path):
    def trained(states: str | None) -> mx.kv.KVStore:
        made = mx.kv.create("device")
        made.set_optimizer(mx.optimizer.SGD(learning_rate=1.0, momentum=0.5))
        made.init("w", filled(8))
        if states:
            made.load_optimizer_states(states)
        return made

    first = trained(None)
    out = filled(0)
    first.pushpull("w", [filled(1), filled(1, 1)], out=out)
    assert out.asnumpy().tolist() == [6, 6]
    assert set(first._updater.states) == {"w"}
    name = str(tmp_path / "kv.states")
    first.save_optimizer_states(name)
    again = trained(name)
    again.pushpull("w", [filled(1), filled(1, 1)], out=out)
    assert out.asnumpy().tolist() == [5, 5]  # the momentum of the file: -2 * 0.5 - 2
    first.save_optimizer_states(name, dump_optimizer=True)
    again.load_optimizer_states(name)
    assert again._updater.optimizer.num_update == 1


@pytest.mark.parametrize("action", ["save", "load"])
def test_states_need_an_optimizer(store, action, tmp_path):
    with pytest.raises(AssertionError, match="set_optimizer"):
        getattr(store, f"{action}_optimizer_states")(str(tmp_path / "none"))


REFUSED = {
    "unknown key": (lambda s: s.push(9, filled(1)), mx.MXNetError, "key 9 has not been inited"),
    "unknown key pulled": (lambda s: s.pull(9, out=filled(1)), mx.MXNetError, "key 9"),
    "init twice": (lambda s: s.init(3, filled(1)), mx.MXNetError, "duplicate init of key 3"),
    "two values": (lambda s: s.init(9, [filled(1), filled(1)]), mx.MXNetError, "duplicate"),
    "other kind": (lambda s: s.init("a", filled(1)), mx.MXNetError, "Mixed key types"),
    "mixed list": (lambda s: s.init([4, "b"], [filled(1), filled(1)]), AssertionError, "inconsistent types of keys"),
    "float key": (lambda s: s.init(1.5, filled(1)), AssertionError, "unexpected type for keys"),
    "fewer values": (lambda s: s.init([6, 7], [filled(1)]), AssertionError, "2 keys"),
    "numpy value": (lambda s: s.init(8, np.zeros((2, 2))), AssertionError, "NDArray"),
    "no out": (lambda s: s.pull(3), AssertionError, "out"),
    "other shape": (lambda s: s.pull(3, out=filled(0, shape=(3,))), mx.MXNetError, r"\(2,\).*\(3,\)"),
    "unequal arrays": (lambda s: s.push(3, [filled(1), filled(1, shape=(3,))]), mx.MXNetError, "arrays differ"),
    "sparse": (lambda s: s.row_sparse_pull(3, filled(0), row_ids=mx.nd.array([0])), mx.MXNetError, "row_sparse"),
    "no rows": (lambda s: s.row_sparse_pull(3, filled(0)), AssertionError, "row_ids"),
    "capability": (lambda s: s.is_capable("flying"), ValueError, "Unknown capability"),
    "servers": (lambda s: s._send_command_to_servers(0, ""), NotImplementedError, "several machines"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_misuse_is_refused(store, case):
    action, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        action(store)
    assert (pulled(store, 3), pulled(store, 5)) == ([1, 1], [2, 2])


def test_types_ranks_and_capabilities():
    for name in ("local", "device", "local_allreduce_cpu"):
        store = mx.kv.create(name.upper())
        assert (store.type, store.rank, store.num_workers) == (name, 0, 1)
        assert store.is_capable("OPTIMIZER")
        store._barrier()


def test_stores_that_do_not_exist():
    with pytest.warns(UserWarning, match="horovod"):
        assert mx.kv.create("horovod").type == "horovod"
    for name in ("dist_sync", "dist_async", "dist_device_sync"):
        with pytest.raises(NotImplementedError, match=name):
            mx.kv.create(name)
    with pytest.raises(mx.MXNetError, match="nccl"):
        mx.kv.create("nccl")
    with pytest.raises(TypeError, match="string"):
        mx.kv.create(3)
    with pytest.raises(NotImplementedError, match="several machines"):
        mx.kv.KVStoreServer(None)


def test_stores_of_ones_own_are_made_by_name():
    @mx.kv.KVStoreBase.register
    class OwnStore(mx.kv.KVStoreBase):
        pass

    store = mx.kv.create("ownstore")
    assert type(store) is OwnStore
    for method, arguments in {
        "broadcast": (1, None, None), "pushpull": (1, None), "set_optimizer": (None,), "is_capable": ("optimizer",),
        "save_optimizer_states": ("x",), "load_optimizer_states": ("x",),
    }.items():  # fmt: skip
        with pytest.raises(NotImplementedError, match=f"OwnStore.{method}"):
            getattr(store, method)(*arguments)
    for name in ("type", "rank", "num_workers"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(store, name)
    with pytest.warns(UserWarning, match="ownstore"):
        mx.kv.KVStoreBase.register(type("OwnStore", (OwnStore,), {}))


def test_the_store_for_tests_keeps_nothing():
    store = mx.kv.create("teststore")
    assert (store.type, store.rank, store.num_workers, store.is_capable("optimizer")) == ("teststore", 0, 1, False)
    out, grads = filled(0), [filled(1), filled(2, 1)]
    store.broadcast("w", filled(5), out=out)
    assert out.asnumpy().tolist() == [5, 5]
    store.pushpull("w", grads)
    assert [grad.asnumpy().tolist() for grad in grads] == [[3, 3], [3, 3]]
    store.pushpull("w", [filled(1), filled(2, 1)], out=[out])
    assert out.asnumpy().tolist() == [3, 3]
    store.pushpull("w", filled(7), out=out)
    assert out.asnumpy().tolist() == [7, 7]
    with pytest.raises(ValueError, match="Unknown capability"):
        store.is_capable("flying")


class Noting(mx.optimizer.ReferenceKernels):
    """Notes what runs, and over how many arrays."""

    def __init__(self):
        self.ran = []

    def run(self, name, arrays, *scalars):
        self.ran.append((name, len(arrays)))
        return super().run(name, arrays, *scalars)


def pushed(optimizer, *gradients, dtype="float32"):
    """(what ran, the value) after a push of these to a value of ones."""
    kernels = optimizer.kernels = Noting()
    store = mx.kv.create("local")
    store.init("w", mx.nd.ones((3,), dtype=dtype))
    store.set_optimizer(optimizer)
    arrays = [mx.nd.array(gradient, dtype=dtype) for gradient in gradients]
    store.push("w", arrays)
    for array, gradient in zip(arrays, gradients, strict=True):
        assert array.asnumpy().tolist() == gradient
    value = mx.nd.zeros((3,), dtype=dtype)
    store.pull("w", value)
    return kernels.ran, value.asnumpy().tolist()


def test_gradients_of_two_devices_are_added_up_by_the_update():
    sgd = {"learning_rate": 0.5, "rescale_grad": 1.0}
    one, two, three = [2.0, 0.0, -4.0], [0.0, 2.0, 2.0], [2.0, -2.0, 2.0]
    assert pushed(mx.optimizer.SGD(**sgd), one, two) == ([("sgd_update_of_two", 3)], [0, 0, 2])
    ran = [("add_two", 3), ("sgd_update_of_two", 3)]
    assert pushed(mx.optimizer.SGD(**sgd), one, two, three) == (ran, [-1, 1, 1])
    ran = [("add_two", 3), ("sgd_update", 2)]
    assert pushed(mx.optimizer.SGD(**sgd), one, two, dtype="float64") == (ran, [0, 0, 2])
    assert [name for name, _ in pushed(mx.optimizer.AdaDelta(), one, two)[0]] == ["add_two", "adadelta_update"]


def test_optimizers_in_python_see_the_sum():
    @mx.optimizer.register
    class Looking(mx.optimizer.NAG):
        def update(self, index, weight, grad, state):
            assert grad.shape == weight.shape and grad.stype == "default" and grad.context == mx.cpu()
            weight[:] = weight - grad * 0.5

    assert pushed(Looking(), [2.0, 0.0, -4.0], [0.0, 2.0, 2.0]) == ([("add_two", 3)], [0, 0, 2])
