"""Optimizer state files: MXNet's are read, ours have its form, and hostile ones are refused."""

import collections
import os
import pickle
from typing import Any

import numpy as np
import pytest
from recorded_cases import FOLDER, recorder

import bucketmod as mx
from bucketmod.optimizer import state_format


def arrays_of(states: dict[Any, Any]) -> dict[Any, list[list[float]]]:
    def each(state: Any) -> list[Any]:
        return [item.asnumpy().tolist() for item in (state if isinstance(state, tuple) else (state,))]

    return {key: each(state) for key, state in states.items()}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_states_written_by_mxnet_are_read(name: str) -> None:
    expected = recorder("training_parts").trained_updater(mx, name, [0, "a_weight"])
    updater = mx.optimizer.get_updater(mx.optimizer.create(name))
    updater.set_states((FOLDER / f"mxnet_{name}.states").read_bytes())
    ours, theirs = arrays_of(expected.states), arrays_of(updater.states)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimizer_in_the_file_replaces_the_updaters(name: str) -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.create("test"))
    updater.set_states((FOLDER / f"mxnet_{name}_full.states").read_bytes())
    optimizer = updater.optimizer
    assert type(optimizer) is type(mx.optimizer.create(name))
    assert optimizer.num_update == 3
    assert optimizer._all_index_update_counts == {0: {0: 3, "a_weight": 3}}
    assert isinstance(optimizer.lr_scheduler, mx.lr_scheduler.FactorScheduler)
    updater(0, mx.nd.ones((2,)), mx.nd.ones((2,)))
    assert optimizer.num_update == 4


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_states_survive_a_round_trip(with_optimizer: bool) -> None:
    before = recorder("training_parts").trained_updater(mx, "adam", [0, 1, "w"])
    after = mx.optimizer.get_updater(mx.optimizer.Adam())
    after.set_states(before.get_states(dump_optimizer=with_optimizer))
    assert arrays_of(before.states) == arrays_of(after.states)
    assert after.optimizer.num_update == (3 if with_optimizer else 0)
    results = []
    for updater in (before, after):
        weight = mx.nd.array([1.0, 2.0])
        updater("w", mx.nd.array([0.5, 0.25]), weight)
        results.append(weight.asnumpy().tolist())
    assert (results[0] == results[1]) == with_optimizer  # without counts Adam starts its correction again


def test_written_states_name_mxnets_classes_and_no_others() -> None:
    import pickletools

    updater = recorder("training_parts").trained_updater(mx, "adam", [0])
    names = {
        argument for opcode, argument, _ in pickletools.genops(updater.get_states(True)) if opcode.name == "GLOBAL"
    }
    assert names == {
        "mxnet.ndarray.ndarray NDArray",
        "builtins bytearray",
        "mxnet.optimizer.optimizer Adam",
        "mxnet.lr_scheduler FactorScheduler",
    }


def test_plain_containers_and_numpy_arrays_pass() -> None:
    value = {
        "a": [1, -2.5, None, True, "text", b"bytes", 2**70, ()],
        3: (np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(2.5)),
        "o": collections.OrderedDict(),
    }
    for protocol in (3, 4, 5):
        found = state_format.loads(pickle.dumps(value, protocol))
        assert found["a"] == value["a"]
        np.testing.assert_array_equal(found[3][0], value[3][0])
        assert found[3][1] == 2.5
        assert found["o"] == {}


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


HUGE_ARRAY = b"\xc9\xfa\x93\xf9" + bytes(4) + b"\x01\0\0\0" + b"\xff" * 7 + b"\0" + bytes(12)
HOSTILE = {
    "system": lambda: pickle.dumps(Evil(os.system, "exit 1")),
    "eval": lambda: pickle.dumps({0: Evil(eval, "1/0")}),
    "open": lambda: pickle.dumps(Evil(open, "never", "w")),
    "text opcodes": lambda: pickle.dumps({0: 1}, 0),
    "object array": lambda: pickle.dumps({0: np.array([None, "x"], dtype=object)}),
    "huge array": lambda: b"\x80\x04}K\x00" + _array(HUGE_ARRAY) + b"s.",
    "cut array": lambda: b"\x80\x04}K\x00" + _array(b"\xc9\xfa\x93") + b"s.",
    "huge bytes": lambda: b"\x80\x04\x8e" + b"\xff" * 6 + b"\0\0" + b"x.",
    "huge memo": lambda: b"\x80\x04Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "self-containing": lambda: b"\x80\x04]\x94h\x00a.",
    "deep": lambda: b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".",
    "deep key": lambda: b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",
    "underflow": lambda: b"\x80\x04\x86.",
    "no container": lambda: b"\x80\x04NNs.",
    "method": lambda: b"\x80\x04cmxnet.optimizer.optimizer\nSGD\n)\x81}X\x06\0\0\0updateNsb.",
    "bare class": lambda: b"\x80\x04cmxnet.optimizer.optimizer\nSGD\n.",
    "not states": lambda: pickle.dumps([1, 2, 3]),
    "empty": lambda: b"",
    "text": lambda: b"hello, world",
}  # fmt: skip


def _array(handle: bytes) -> bytes:
    text = b"X\x06\0\0\0handle"
    content = b"cbuiltins\nbytearray\nB" + len(handle).to_bytes(4, "little") + handle + b"\x85R"
    return b"cmxnet.ndarray.ndarray\nNDArray\nN\x85R}" + text + content + b"sb"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_states_are_refused_and_change_nothing(kind: str) -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.SGD())
    updater.states = {"kept": None}
    with pytest.raises(mx.MXNetError, match="optimizer states|array"):
        updater.set_states(HOSTILE[kind]())
    assert updater.states == {"kept": None}


def test_every_truncation_and_many_changes_of_a_file_end_in_an_error_or_states() -> None:
    data = (FOLDER / "mxnet_adam_full.states").read_bytes()
    rng = np.random.default_rng(0)
    for cut in range(len(data)):
        with pytest.raises(mx.MXNetError):
            state_format.loads(data[:cut])
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            state_format.loads(bytes(damaged))
        except mx.MXNetError:
            pass


def test_unknown_values_cannot_be_written() -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.SGD())
    updater.states = {0: object()}
    with pytest.raises(TypeError, match="object"):
        updater.get_states()

    class Mine(mx.optimizer.SGD):
        pass

    with pytest.raises(TypeError, match="Mine"):
        mx.optimizer.get_updater(Mine()).get_states(dump_optimizer=True)
