"""The files of whole checkpoints: never half written, never believed when damaged, with nothing in them but data."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.checkpoint import Checkpoint, container, newest, progress, tree


class Module:
    """What a checkpoint asks of a module."""

    def __init__(self, value: float = 1.0, size: int = 3000) -> None:
        self.params = {"w": mx.nd.full((size,), value), "b": mx.nd.array([value], dtype="int64")}
        self.progress: Any = {"step": 3}

    def get_params(self) -> Any:
        return self.params, {"m": mx.nd.array([[math.nan, -math.inf]])}

    def set_params(self, arg_params: Any, aux_params: Any) -> None:
        self.params = arg_params

    def get_progress(self) -> Any:
        return self.progress

    def set_progress(self, found: Any) -> None:
        self.progress = found


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(value: float = 1.0, epoch: int = 1) -> bytes:
    mx.checkpoint.save("c", epoch, Module(value))
    return pathlib.Path(mx.checkpoint.file_name("c", epoch)).read_bytes()


def test_what_was_saved_comes_back_bit_by_bit() -> None:
    module = Module()
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    module.params["bits"] = mx.nd.NDArray(bits)
    module.progress = {
        1: (None, True, 2**200, -0.0, math.inf), ("a", 2): [mx.nd.ones((2, 1)), np.float32(0.1), np.zeros((), "i8")],
        None: {"deep": {"er": ()}}, 2.5: "näme",
    }  # fmt: skip
    mx.checkpoint.save("c", 12, module)
    found = mx.checkpoint.load("c", 12)
    assert found.epoch == 12 and found.fname == "c-0012.checkpoint"
    assert found.arg_params["bits"].asnumpy().tobytes() == bits.tobytes()
    assert found.arg_params["b"].dtype == np.int64
    assert math.isnan(found.aux_params["m"].asnumpy()[0, 0])
    assert found.progress[1] == (None, True, 2**200, -0.0, math.inf)
    assert math.copysign(1, found.progress[1][3]) == -1
    array, scalar, empty = found.progress["a", 2]
    assert array.shape == (2, 1) and scalar == np.float32(0.1) and scalar.dtype == np.float32
    assert empty.shape == () and empty.dtype == np.int64
    assert found.progress[None] == {"deep": {"er": ()}} and found.progress[2.5] == "näme"


def test_random_numbers_go_on() -> None:
    mx.random.seed(5)
    np.random.normal()  # leaves a second number in store
    mx.checkpoint.save("c", 1, Module())

    def draw() -> list[Any]:
        return [np.random.normal(), random.random(), mx.nd.random.normal(shape=(3,)).asnumpy().tolist()]

    expected, module = draw(), Module()
    mx.checkpoint.load("c", 1).restore(module)
    assert draw() == expected


# ---- crashes


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99, 1.0])
def test_a_write_that_stops_anywhere_leaves_the_last_checkpoint(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(1.0)
    limit = int(share * len(before))
    real = os.fdopen

    class Stream:
        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, limit

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            self.stream.close()

        def write(self, data: Any) -> int:
            data = bytes(data)
            self.stream.write(data[: self.left])
            self.left -= len(data)
            if self.left < 0:
                raise PowerCut
            return len(data)

        def flush(self) -> None:
            self.stream.flush()
            raise PowerCut  # when all bytes were written, before they are on the disk

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(os, "fdopen", lambda *args: Stream(real(*args)))
        mx.checkpoint.save("c", 1, Module(2.0))
    assert os.listdir(".") == ["c-0001.checkpoint"]
    assert pathlib.Path("c-0001.checkpoint").read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_file_system_that_refuses_leaves_the_last_checkpoint(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(1.0)

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(mx.MXNetError, match="No space left"):
        patch.setattr(os, step, refuse)
        mx.checkpoint.save("c", 1, Module(2.0))
    assert os.listdir(".") == ["c-0001.checkpoint"]
    assert pathlib.Path("c-0001.checkpoint").read_bytes() == before


_KILLED = """
import os, sys
import bucketmod as mx
from bucketmod import atomic_file
sys.path.insert(0, {tests!r})
from test_checkpoint_files import Module
real = os.{step}
os.{step} = lambda *args: os._exit(9)
mx.checkpoint.save("c", 2, Module(2.0))
"""


def test_a_process_that_dies_between_writing_and_renaming_leaves_the_last_checkpoint(folder: pathlib.Path) -> None:
    saved(1.0)
    code = _KILLED.format(tests=str(pathlib.Path(__file__).parent), step="replace")
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 9
    found = newest("c")
    assert found is not None and found.epoch == 1 and found.arg_params["w"].asnumpy()[0] == 1.0


# ---- damage


def test_files_that_were_cut_anywhere_are_refused() -> None:
    whole = saved()
    lengths = sorted({*range(0, 40), *range(0, len(whole), len(whole) // 40), *range(len(whole) - 60, len(whole))})
    for length in lengths:
        pathlib.Path("cut").write_bytes(whole[:length])
        with pytest.raises(mx.MXNetError):
            Checkpoint.read("cut")
    pathlib.Path("cut").write_bytes(whole + b"\0")
    with pytest.raises(mx.MXNetError):
        Checkpoint.read("cut")


def test_files_with_a_changed_bit_are_refused() -> None:
    whole = saved()
    rng = random.Random(0)
    for place in [*range(0, 60), *range(len(whole) - 60, len(whole)), *(rng.randrange(len(whole)) for _ in range(100))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        pathlib.Path("changed").write_bytes(changed)
        with pytest.raises(mx.MXNetError):
            Checkpoint.read("changed")


def test_the_newest_whole_checkpoint_is_found(caplog: pytest.LogCaptureFixture) -> None:
    assert newest("c") is None
    for epoch in (1, 2, 9, 10, 12345):
        saved(float(epoch), epoch)
    for name in ("c-0003.params", *(f"{stem}.checkpoint" for stem in ("c-1", "other-0099", "c-extra-0099", "c-"))):
        pathlib.Path(name).write_bytes(b"")
    assert newest("c").epoch == 12345  # type: ignore[union-attr]
    pathlib.Path("c-12345.checkpoint").write_bytes(b"nothing")
    os.replace("c-0009.checkpoint", "c-0011.checkpoint")
    found = newest(os.path.join(os.curdir, "c"))
    assert found is not None and found.epoch == 10
    assert [name in caplog.text for name in ("c-12345", "c-0011", "c-0010")] == [True, True, False]
    with pytest.raises(mx.MXNetError, match="c-0077"):
        mx.checkpoint.load("c", 77)


# ---- files made by someone else, with a checksum that fits


def forge(content: Any, arrays: bytes | None = None, name: str = "forged") -> str:
    """A file that is sound on the outside."""
    if arrays is None:
        container.write(name, content if not isinstance(content, bytes) else None, [mx.nd.ones((2,))])
        data = pathlib.Path(name).read_bytes()
        size = struct.unpack("<QQ", data[-48:-32])[0]
        arrays = data[len(container.MAGIC) : len(container.MAGIC) + size]
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    data = container.MAGIC + arrays + encoded + struct.pack("<QQ", len(arrays), len(encoded))
    pathlib.Path(name).write_bytes(data + hashlib.sha256(data).digest())
    return name


def content(**changes: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"dict": []}
    return {"format": 1, "epoch": 1, "args": nothing, "auxs": nothing, "progress": None, "random": None, "data": [],
            **changes}  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


FORGED: dict[str, Any] = {
    "no JSON": b"{",
    "deep JSON": b"[" * 100_000,
    "no text": b"\xff\xfe",
    "no object": [],
    "another format": content(format=2),
    "no epoch": content(epoch="1"),
    "a negative epoch": content(epoch=-1),
    "parameters that are none": content(args=5),
    "a parameter that is no array": content(args={"dict": [["w", 3]]}),
    "a parameter without a name": content(args={"dict": [[3, {"array": 0}]]}),
    "an array that is not there": content(args={"dict": [["w", {"array": 1}]]}),
    "an array before the first": content(args={"dict": [["w", {"array": -1}]]}),
    "an array numbered by text": content(progress={"array": "0"}),
    "another shape": content(progress={"numpy": 0, "shape": [3]}),
    "a huge shape": content(progress={"numpy": 0, "shape": [2**70]}),
    "no shape": content(progress={"numpy": 0}),
    "a scalar of two": content(progress={"scalar": 0}),
    "an unknown kind": content(progress={"call": ["os.system", "true"]}),
    "an empty object": content(progress={}),
    "a list as key": content(progress={"dict": [[[1], 2]]}),
    "an array as key": content(progress={"dict": [[{"numpy": 0, "shape": [2]}, 2]]}),
    "items that are no pairs": content(progress={"dict": [[1, 2, 3]]}),
    "deep data": content(progress=nested(60)),
    "a long number": b'{"format": 1, "epoch": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_files_are_refused(case: str) -> None:
    with pytest.raises(mx.MXNetError):
        Checkpoint.read(forge(FORGED[case]))


@pytest.mark.parametrize("arrays", [b"", b"\0" * 40, struct.pack("<QQQ", 0x112, 0, 2**60)])
def test_forged_arrays_are_refused(arrays: bytes) -> None:
    with pytest.raises(mx.MXNetError):
        Checkpoint.read(forge(content(), arrays))
    mx.nd.save("named", {"a": mx.nd.ones((1,))})
    with pytest.raises(mx.MXNetError, match="names"):
        Checkpoint.read(forge(content(), pathlib.Path("named").read_bytes()))


def test_a_sound_file_of_someone_else_is_read() -> None:
    found = Checkpoint.read(forge(content(args={"dict": [["w", {"array": 0}]]}, data=None)))
    assert found.arg_params["w"].asnumpy().tolist() == [1, 1] and found.data == []


# ---- what goes into optimizers and generators


def updater() -> Any:
    optimizer = mx.optimizer.create("adam", lr_scheduler=mx.lr_scheduler.FactorScheduler(2, 0.5))
    made = mx.optimizer.get_updater(optimizer)
    made(0, mx.nd.ones((2,)), mx.nd.ones((2,)))
    return made


def changed(**changes: Any) -> dict[str, Any]:
    return {**progress.get_updater_progress(updater()), **changes}


WRONG: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "no class": lambda: changed(optimizer=3),
    "no attributes": lambda: changed(attributes=[1]),
    "no states": lambda: changed(states=None),
    "a method": lambda: changed(attributes={"update": 1}),
    "an attribute of the class": lambda: changed(attributes={"opt_registry": {}}),
    "kernels": lambda: changed(attributes={"kernels": 1}),
    "a new attribute": lambda: changed(attributes={"__class__": "x"}),
    "counts that are none": lambda: changed(attributes={"_all_index_update_counts": 7}),
    "counts of nothing": lambda: changed(attributes={"_all_index_update_counts": {0: 1}}),
    "another schedule": lambda: changed(schedule={"class": "PolyScheduler", "attributes": {}}),
    "no schedule": lambda: changed(schedule=None),
    "a schedule of text": lambda: changed(schedule="steep"),
    "a method of the schedule": lambda: changed(schedule={"class": "FactorScheduler", "attributes": {"__call__": 1}}),
}


@pytest.mark.parametrize("case", WRONG)
def test_progress_that_does_not_fit_the_optimizer_is_refused(case: str) -> None:
    with pytest.raises(mx.MXNetError):
        progress.set_updater_progress(updater(), WRONG[case]())


def test_attributes_that_are_no_data_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Own(mx.optimizer.Optimizer):
        def __init__(self) -> None:
            super().__init__()
            self.choose = lambda: 1
            self.seen = 0

    made = mx.optimizer.get_updater(Own())
    made.optimizer.seen = 4
    found = progress.get_updater_progress(made)
    assert "choose" in caplog.text and "choose" not in found["attributes"]
    again = mx.optimizer.get_updater(Own())
    progress.set_updater_progress(again, found)
    assert again.optimizer.seen == 4 and again.optimizer.choose() == 1


def test_a_schedule_that_is_a_function_has_nothing_to_remember() -> None:
    def made() -> Any:
        return mx.optimizer.get_updater(mx.optimizer.SGD(lr_scheduler=lambda step: 0.5 / step))

    found = progress.get_updater_progress(made())
    assert found["schedule"] == {"class": "function", "attributes": {}}
    progress.set_updater_progress(made(), found)


def test_damaged_states_of_random_numbers_are_refused() -> None:
    whole = progress.get_random_states()
    key = whole["numpy"]["state"]["key"]
    for wrong in (
        None,
        {**whole, "python": (3, (1, 2), None)},
        {**whole, "mx": {"seed": 1}},
        {**whole, "mx": {"seed": 1, "step": 0, "generator": {"bit_generator": "MT19937"}}},
        {**whole, "numpy": {**whole["numpy"], "state": {"key": key, "pos": 10**9}}},
        {**whole, "numpy": {**whole["numpy"], "state": {"key": key[:5], "pos": 3}}},
        {**whole, "numpy": {**whole["numpy"], "state": {"key": None, "pos": 3}}},
    ):
        with pytest.raises(mx.MXNetError, match="damaged"):
            progress.set_random_states(wrong)


def test_only_plain_data_is_written() -> None:
    for wrong in (object(), {1, 2}, b"bytes", 1j, np.zeros(2, "c8"), np.array([None])):
        with pytest.raises(TypeError, match="cannot be saved"):
            tree.encode([wrong], [])


def test_folders_that_do_not_exist() -> None:
    with pytest.raises(mx.MXNetError, match="No such file"):
        mx.checkpoint.save("nowhere/c", 1, Module())
