"""``.params`` files: MXNet's are read, ours are the same bytes, hostile ones are refused without taking memory."""

import os
import pathlib
import resource
import struct
from typing import Any

import numpy as np
import pytest
from recorded_cases import FOLDER, recorder

import bucketmod as mx


def same(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_files_of_mxnet_are_read() -> None:
    expected = recorder("training_parts").arrays(mx)
    named = mx.nd.load(str(FOLDER / "mxnet_dict.params"))
    assert list(named) == list(expected)
    for name in expected:
        same(named[name], expected[name])
    listed = mx.nd.load(str(FOLDER / "mxnet_list.params"))
    assert isinstance(listed, list)
    for ours, theirs in zip(listed, expected.values(), strict=True):
        same(ours, theirs)


def test_files_are_mxnets_bytes(tmp_path: pathlib.Path) -> None:
    arrays = recorder("training_parts").arrays(mx)
    for name, data in (("mxnet_dict.params", arrays), ("mxnet_list.params", list(arrays.values()))):
        mx.nd.save(str(tmp_path / name), data)
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_one_array_is_saved_as_a_list(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "x")
    mx.nd.save(path, mx.nd.array([1, 2]))
    (found,) = mx.nd.load(path)
    assert found.asnumpy().tolist() == [1, 2]
    assert found.numpy_view().ctypes.data % 64 == 0


def old_array(values: np.ndarray, version: int) -> bytes:
    if version == 0:
        head = struct.pack(f"<I{values.ndim}I", values.ndim, *values.shape)
    else:
        head = struct.pack(f"<II{values.ndim}q", 0xF993FAC8, values.ndim, *values.shape)
    return head + struct.pack("<iii", 1, 0, 0) + values.tobytes()


@pytest.mark.parametrize("version", [0, 1])
def test_older_layouts_are_read(version: int) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = struct.pack("<QQQ", 0x112, 0, 1) + old_array(values, version) + struct.pack("<QQ", 1, 1) + b"w"
    np.testing.assert_array_equal(mx.nd.load_frombuffer(data)["w"].asnumpy(), values)


def one_array(shape: tuple[int, ...], code: int = 0, storage: int = 0, magic: int = 0xF993FAC9) -> bytes:
    head = struct.pack(f"<IiI{len(shape)}q", magic, storage, len(shape), *shape)
    return struct.pack("<QQQ", 0x112, 0, 1) + head + struct.pack("<iii", 1, 0, code) + bytes(8)


HOSTILE = {
    "empty": b"",
    "text": b"hello, this is no array file at all",
    "other magic": struct.pack("<QQQ", 0x113, 0, 0),
    "many arrays": struct.pack("<QQQ", 0x112, 0, 2**60),
    "huge dimension": one_array((2**62,)),
    "overflowing dimensions": one_array((2**33, 2**33, 2**33)),
    "zero beside huge": one_array((0, 2**40, 2**40)),
    "negative dimension": one_array((-2, -1)),
    "many axes": struct.pack("<QQQIiI", 0x112, 0, 1, 0xF993FAC9, 0, 2**31) + bytes(64),
    "axes beyond numpy": one_array((1,) * 33),
    "unknown dtype": one_array((2,), code=99),
    "sparse": one_array((2,), storage=1),
    "unknown array": one_array((2,), magic=0xDEADBEEF),
    "long name": one_array((2,)) + struct.pack("<QQ", 1, 2**60) + b"w",
    "name count": one_array((2,)) + struct.pack("<QQ", 7, 1) + b"w",
    "name bytes": one_array((2,)) + struct.pack("<QQ", 1, 2) + b"\xff\xfe",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bad.params"
    path.write_bytes(HOSTILE[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(mx.MXNetError, match="bad.params"):
        mx.nd.load(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_every_truncation_is_an_error_and_no_change_crashes() -> None:
    data = (FOLDER / "mxnet_dict.params").read_bytes()
    for cut in range(len(data)):
        with pytest.raises(mx.MXNetError):
            mx.nd.load_frombuffer(data[:cut])
    rng = np.random.default_rng(1)
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            mx.nd.load_frombuffer(bytes(damaged))
        except mx.MXNetError:
            pass


def test_missing_files_and_wrong_data_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(mx.MXNetError, match="nowhere"):
        mx.nd.load(str(tmp_path / "nowhere"))
    with pytest.raises(mx.MXNetError, match="cannot write"):
        mx.nd.save(str(tmp_path / "no" / "folder"), [])
    with pytest.raises(TypeError):
        mx.nd.load(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        mx.nd.save(str(tmp_path / "x"), 3)  # type: ignore[arg-type]
    for data in ([1], {1: mx.nd.zeros((1,))}, {"a": np.zeros(1)}):
        with pytest.raises(TypeError):
            mx.nd.save(str(tmp_path / "x"), data)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.params"
    mx.nd.save(str(path), [mx.nd.zeros((2,))])
    before = path.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(mx.MXNetError, match="No space left"):
        mx.nd.save(str(path), [mx.nd.ones((2,))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_keeps_links_and_follows_the_file_mode_mask(tmp_path: pathlib.Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    mx.nd.save(str(link), [mx.nd.zeros((1,))])
    assert link.is_symlink()
    assert len(mx.nd.load(str(target))) == 1
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.stat().st_mode == plain.stat().st_mode
