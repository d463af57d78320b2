"""The cache on disk: found again by any process, damaged entries recompiled, one compile for many processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.cache import ArtifactCache, default_cache_dir
from bucketmod.runtime.errors import ArtifactError, IncompatibleCpuError

REQUEST, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture
def published(cache, tiny_artifacts):
    """(cache, object folder) with one artifact under REQUEST."""
    digest = cache.publish(REQUEST, tiny_artifacts(), {"model": "lm", "bucket_key": 10})
    return cache, cache.object_folder(digest)


def fresh(cache):
    """What another process would see."""
    return ArtifactCache(cache.directory)


def test_publish_and_load(published):
    cache, folder = published
    artifact = fresh(cache).load(REQUEST)
    assert isinstance(artifact, Artifact)
    assert artifact.folder == folder
    entry = cache.find(REQUEST)
    assert entry.object_digest == folder.name
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert entry.info == {
        "model": "lm", "bucket_key": 10, "target": "cpu:x86-64-v3", "mode": "train", "nodes": 2,
        "compile_seconds": 0.5, "bytes": size, "workspace_bytes": 384,
    }  # fmt: skip
    assert list((cache.directory / "staging").iterdir()) == []


def test_hits_and_misses_are_counted_and_an_artifact_is_opened_once(published):
    cache, _ = published
    assert cache.load(OTHER) is None
    assert cache.load(REQUEST) is cache.load(REQUEST)
    assert (cache.counts.hits, cache.counts.misses) == (2, 1)


def test_equal_artifacts_share_one_object(published, tiny_artifacts):
    cache, folder = published
    assert cache.publish(OTHER, tiny_artifacts(), {"bucket_key": 20}) == folder.name
    assert len(list((cache.directory / "objects").iterdir())) == 1
    assert [entry.info["bucket_key"] for entry in cache.entries()] == [20, 10]  # no model name sorts first


@pytest.mark.parametrize("name", ["manifest.json", "module.o", "constants.npz"])
@pytest.mark.parametrize("damage", ["truncate", "remove", "change"])
def test_a_damaged_object_is_a_miss_and_is_replaced(published, tiny_artifacts, caplog, name, damage):
    cache, folder = published
    whole = (folder / name).read_bytes()
    if damage == "remove":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[:-20] if damage == "truncate" else whole[:50] + b"\1" + whole[51:])
    again = fresh(cache)
    assert again.find(REQUEST) is None
    assert again.load(REQUEST) is None
    assert "compiled again" in caplog.text
    assert again.publish(REQUEST, tiny_artifacts(), {}) == folder.name
    assert (folder / name).read_bytes() == whole
    assert again.load(REQUEST) is not None


def hostile_index_entries():
    yield from ["", "{", "[]", "null", "{}", '{"object": 1, "info": {}}', '{"object": "../../etc", "info": {}}']
    yield from [json.dumps({"object": "c" * 64, "info": []}), "[" * 100000, "\x00\x01"]


@pytest.mark.parametrize("text", list(hostile_index_entries()))
def test_a_damaged_index_entry_is_a_miss(published, tiny_artifacts, text):
    cache, _ = published
    (cache.directory / "index" / f"{REQUEST}.json").write_text(text)
    assert fresh(cache).load(REQUEST) is None
    assert cache.entries() == []
    cache.publish(REQUEST, tiny_artifacts(), {})
    assert fresh(cache).load(REQUEST) is not None


def test_an_entry_without_its_object_is_a_miss(published):
    cache, folder = published
    shutil.rmtree(folder)
    assert fresh(cache).load(REQUEST) is None


def test_a_file_where_the_object_folder_belongs_is_replaced(published, tiny_artifacts):
    cache, folder = published
    shutil.rmtree(folder)
    folder.write_text("in the way")
    cache.publish(REQUEST, tiny_artifacts(), {})
    assert fresh(cache).load(REQUEST) is not None


def test_requests_are_digests_and_nothing_else(cache, tiny_artifacts):
    for text in ("../../x", "", "A" * 64, "a" * 63, "a" * 64 + "\n"):
        assert cache.find(text) is None
        with pytest.raises(ValueError, match="SHA-256"):
            cache.publish(text, tiny_artifacts(), {})
        with pytest.raises(ValueError, match="SHA-256"), cache.lock(text):
            pass


def test_only_intact_artifacts_are_published(cache, tiny_artifacts, tmp_path):
    folder = shutil.copytree(tiny_artifacts(), tmp_path / "copy")
    (folder / "module.o").write_bytes(b"")
    with pytest.raises(ArtifactError):
        cache.publish(REQUEST, folder, {})
    assert cache.find(REQUEST) is None


def test_an_artifact_for_a_better_cpu_is_an_error_and_not_recompiled(cache, tiny_artifacts, rewrite_manifest, tmp_path):
    folder = shutil.copytree(tiny_artifacts(), tmp_path / "copy")
    rewrite_manifest(folder, cpu_flags=("avx9000",))
    cache.publish(REQUEST, folder, {})
    with pytest.raises(IncompatibleCpuError, match="avx9000"):
        cache.load(REQUEST)


def test_reading_a_missing_directory_makes_nothing(cache):
    assert cache.load(REQUEST) is None
    assert cache.entries() == []
    assert not cache.directory.exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path, tiny_artifacts):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="BUCKETMOD_CACHE"):
        ArtifactCache(tmp_path / "file" / "cache").publish(REQUEST, tiny_artifacts(), {})


def test_leftovers_of_killed_processes_go_after_a_day(published, tiny_artifacts):
    cache, _ = published
    old, new = cache.directory / "staging" / "old", cache.directory / "staging" / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "module.o").write_bytes(b"half")
    os.utime(old, (time.time() - 90000,) * 2)
    cache.publish(REQUEST, tiny_artifacts(), {})
    assert not old.exists() and new.exists()


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("BUCKETMOD_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here" == ArtifactCache().directory
    monkeypatch.delenv("BUCKETMOD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "bucketmod"


def test_many_processes_compile_once(cache, tiny_artifacts, tmp_path):
    """Each takes the lock, looks, and only "compiles" (slowly, leaving a mark) when nothing is there."""
    script = textwrap.dedent("""
        import os, sys, time
        from bucketmod.runtime.cache import ArtifactCache
        directory, folder, marks = sys.argv[1:]
        cache = ArtifactCache(directory)
        for request in ("a" * 64, "b" * 64):
            with cache.lock(request):
                if cache.find(request) is None:
                    open(os.path.join(marks, f"{request[0]}{os.getpid()}"), "w").close()
                    time.sleep(0.2)
                    cache.publish(request, folder, {"bucket_key": 1})
            assert cache.load(request) is not None
    """)
    marks = tmp_path / "marks"
    marks.mkdir()
    command = [sys.executable, "-c", script, str(cache.directory), str(tiny_artifacts()), str(marks)]
    workers = [subprocess.Popen(command) for _ in range(5)]
    assert [worker.wait(timeout=60) for worker in workers] == [0] * 5
    assert sorted(mark.name[0] for mark in marks.iterdir()) == ["a", "b"]


def test_processes_that_publish_the_same_object_at_once_agree(cache, tiny_artifacts):
    script = textwrap.dedent("""
        import sys
        from bucketmod.runtime.cache import ArtifactCache
        cache = ArtifactCache(sys.argv[1])
        for i in range(10):
            cache.publish(f"{i:064x}", sys.argv[2], {})
            assert cache.find(f"{i:064x}")
    """)
    command = [sys.executable, "-c", script, str(cache.directory), str(tiny_artifacts())]
    workers = [subprocess.Popen(command) for _ in range(4)]
    assert [worker.wait(timeout=60) for worker in workers] == [0] * 4
    assert len(list((cache.directory / "objects").iterdir())) == 1
    assert len(cache.entries()) == 10
