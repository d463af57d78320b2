"""Optimizer states: MXNet's are read, ours are no pickles unless asked for, and hostile ones are refused."""

import collections
import os
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from recorded_cases import FOLDER, recorder

import bucketmod as mx
from bucketmod.optimizer import state_file, state_format


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


ALL = recorder("optimizers")
RECORDED = np.load(FOLDER / "optimizers.npz")
FULL = {name: case for case, (name, _) in ALL.CASES.items() if f"full/{name}" in RECORDED and "options" in case}


def states_of(updater: Any) -> list[np.ndarray]:
    return [array for index in range(3) for array in ALL.flat(updater.states[index])]


@pytest.mark.parametrize("name", FULL)
def test_every_optimizers_states_are_read_as_mxnet_wrote_them(name: str) -> None:
    _, ours = ALL.run(mx, *ALL.CASES[FULL[name]])
    updater = mx.optimizer.get_updater(mx.optimizer.create("test"))
    updater.set_states(RECORDED[f"states/{name}"].tobytes())
    assert type(updater.optimizer) is mx.optimizer.Test
    for found, expected in zip(states_of(updater), states_of(ours), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    updater.set_states(RECORDED[f"full/{name}"].tobytes())
    found, expected = vars(updater.optimizer), vars(ours.optimizer)
    assert type(updater.optimizer) is type(ours.optimizer)
    assert found.keys() == expected.keys()
    for key in found.keys() - {"kernels", "param_dict", "cumgrads", "cur_lr", "last_lr", "sym_info"}:
        assert found[key] == expected[key], key
    for each in (updater, ours):  # it goes on from there
        each(0, mx.nd.ones((3, 5)), mx.nd.ones((3, 5)))
    np.testing.assert_allclose(states_of(updater)[0], states_of(ours)[0], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("format", ["bucketmod", "mxnet"])
@pytest.mark.parametrize("name", FULL)
def test_every_optimizer_survives_a_round_trip(name: str, format: str) -> None:
    _, before = ALL.run(mx, *ALL.CASES[FULL[name]])
    after = mx.optimizer.get_updater(mx.optimizer.create("test"))
    after.set_states(before.get_states(dump_optimizer=True, format=format))
    results = []
    for updater in (before, after):
        weight = mx.nd.array(np.linspace(-1, 1, 7))
        updater(1, mx.nd.array(np.linspace(2, -1, 7)), weight)
        results.append(weight.asnumpy().tolist())
    assert results[0] == results[1]
    assert [a.tolist() for a in states_of(before)] == [a.tolist() for a in states_of(after)]


@pytest.mark.parametrize("format", ["bucketmod", "mxnet"])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_states_survive_a_round_trip(with_optimizer: bool, format: str) -> None:
    before = recorder("training_parts").trained_updater(mx, "adam", [0, 1, "w"])
    after = mx.optimizer.get_updater(mx.optimizer.Adam())
    after.set_states(before.get_states(with_optimizer, format))
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
    opcodes = pickletools.genops(updater.get_states(True, "mxnet"))
    names = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
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


@pytest.mark.parametrize("format", ["bucketmod", "mxnet"])
def test_unknown_values_cannot_be_written(format: str) -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.SGD())
    updater.states = {0: object()}
    with pytest.raises(TypeError, match="object"):
        updater.get_states(format=format)

    class Mine(mx.optimizer.SGD):
        pass

    with pytest.raises(TypeError, match="Mine"):
        mx.optimizer.get_updater(Mine()).get_states(dump_optimizer=True, format=format)
    with pytest.raises(ValueError, match="bucketmod, mxnet"):
        updater.get_states(format="json")


def test_the_default_form_holds_no_pickle_and_any_plain_value() -> None:
    value = {
        "a": [1, -2.5, float("inf"), None, True, "text", b"bytes", 2**70, ()],
        3: (mx.nd.array([[1, 2], [3, 4]], dtype="int32"), np.float64(2.5), mx.nd.array([0.1])),
        ("bucket", 4): {"nan": float("nan"), "schedule": mx.lr_scheduler.MultiFactorScheduler([2, 5], 0.5)},
    }
    data = state_file.dumps(value)
    with pytest.raises(Exception):  # noqa: B017
        pickle.loads(data)
    found = state_file.loads(data)
    assert found["a"] == value["a"]
    assert found[3][0].dtype == np.int32 and found[3][0].asnumpy().tolist() == [[1, 2], [3, 4]]
    assert found[3][1] == 2.5 and np.isnan(found["bucket", 4]["nan"])
    assert vars(found["bucket", 4]["schedule"]) == vars(value["bucket", 4]["schedule"])


def test_registered_optimizers_of_ones_own_are_kept_in_the_default_form() -> None:
    @mx.optimizer.register
    class KeptInStates(mx.optimizer.Optimizer):
        def __init__(self, strength: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.strength = strength

        def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
            self._update_count(index)
            weight -= self.strength * grad

    before = mx.optimizer.get_updater(mx.optimizer.create("keptinstates", strength=0.25))
    before("w", mx.nd.ones((2,)), mx.nd.ones((2,)))
    after = mx.optimizer.get_updater(mx.optimizer.SGD())
    after.set_states(before.get_states(dump_optimizer=True))
    assert type(after.optimizer) is KeptInStates
    assert (after.optimizer.strength, after.optimizer.num_update) == (0.25, 1)
    data = before.get_states(dump_optimizer=True)
    del mx.optimizer.Optimizer.opt_registry["keptinstates"]
    with pytest.raises(mx.MXNetError, match="register its class"):
        after.set_states(data)


def _file(description: str, arrays: bytes = b"") -> bytes:
    body = struct.pack("<8sIQ", b"BMSTATES", 1, len(description)) + description.encode() + arrays
    return body + struct.pack("<I", zlib.crc32(body))


HOSTILE_FILES = {
    "other version": lambda: b"BMSTATES" + bytes(20),
    "no check sum": lambda: _file('{"value": {"dict": []}, "arrays": []}')[:-1],
    "no JSON": lambda: _file("pickle"),
    "deep": lambda: _file('{"arrays": [], "value": ' + '{"list": [' * 100_000 + "]}" * 100_000 + "}"),
    "bare list": lambda: _file('{"value": [], "arrays": []}'),
    "unknown kind": lambda: _file('{"value": {"call": "os.system"}, "arrays": []}'),
    "missing array": lambda: _file('{"value": {"array": 0}, "arrays": []}'),
    "negative array": lambda: _file('{"value": {"array": -1}, "arrays": []}'),
    "huge array": lambda: _file('{"value": {"dict": []}, "arrays": [1000000000000]}'),
    "array of nothing": lambda: _file('{"value": {"dict": []}, "arrays": [4]}', b"abcd"),
    "list as key": lambda: _file('{"value": {"dict": [[{"list": []}, 1]]}, "arrays": []}'),
    "method": lambda: _file('{"value": {"optimizer": "sgd", "attributes": {"dict": [["update", 1]]}}, "arrays": []}'),
    "no dict": lambda: _file('{"value": {"optimizer": "sgd", "attributes": 1}, "arrays": []}'),
    "other scheduler": lambda: _file('{"value": {"scheduler": "logging", "attributes": {"dict": []}}, "arrays": []}'),
    "not states": lambda: _file('{"value": 1, "arrays": []}'),
}


@pytest.mark.parametrize("kind", HOSTILE_FILES)
def test_hostile_files_are_refused_and_change_nothing(kind: str) -> None:
    updater = mx.optimizer.get_updater(mx.optimizer.SGD())
    updater.states = {"kept": None}
    with pytest.raises(mx.MXNetError, match="optimizer states|array"):
        updater.set_states(HOSTILE_FILES[kind]())
    assert updater.states == {"kept": None}


def test_every_damage_of_a_file_is_noticed() -> None:
    data = recorder("training_parts").trained_updater(mx, "adam", [0, "w"]).get_states(True)
    rng = np.random.default_rng(0)
    for cut in rng.integers(len(data), size=100):
        with pytest.raises(mx.MXNetError):
            mx.optimizer.get_updater(mx.optimizer.SGD()).set_states(data[:cut])
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(mx.MXNetError):
            mx.optimizer.get_updater(mx.optimizer.SGD()).set_states(bytes(damaged))
