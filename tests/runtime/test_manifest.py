"""Manifests and artifact folders that no compiler of ours wrote: always a clear error, never a crash."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bucketmod.runtime.artifact import Artifact, Manifest, TensorSpec, verify
from bucketmod.runtime.errors import ArtifactError, IncompatibleCpuError


@pytest.fixture
def folder(tiny_artifacts, tmp_path):
    return shutil.copytree(tiny_artifacts("train"), tmp_path / "artifact")


@pytest.fixture
def document(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_json_round_trip(folder):
    text = (folder / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.tensor("x") == TensorSpec("x", "data", (20,), "float32")
    assert [spec.name for spec in manifest.by_role("gradient")] == ["w_gradient", "x_gradient"]
    with pytest.raises(KeyError):
        manifest.tensor("nothing")


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "3", '"x"', "[" * 100000, "{}", b"\xff\xfe\x00", "NaN"])
def test_other_files_are_refused(text):
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)


def hostile_fields():
    yield from [("format_version", 1), ("format_version", "2"), ("format_version", True), ("mode", "eval")]
    yield from [("library", "../../evil.so"), ("library", "/bin/sh"), ("library", ["module.so"])]
    yield from [("library_sha256", ""), ("library_sha256", "g" * 64), ("constants_sha256", "../x")]
    yield from [("workspace_bytes", -1), ("workspace_bytes", 1e30), ("workspace_bytes", 1 << 70), ("nodes", None)]
    yield from [("tensors", {}), ("tensors", [1]), ("tensors", [{}]), ("compile_seconds", "0")]
    yield from [("entries", []), ("entries", {"forward": "x"}), ("entries", {"forward": ["unknown"]})]
    yield from [("cpu_flags", "avx2"), ("cpu_flags", [2]), ("target", None), ("extra", 1)]
    yield from [("tuning", []), ("tuning", None), ("tuning", {"gemm": 1})]


@pytest.mark.parametrize(("field", "value"), list(hostile_fields()))
def test_hostile_fields_are_refused(document, field, value):
    document[field] = value
    with pytest.raises(ArtifactError):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "change", [{"shape": [43]}, {"shape": []}, {"of": "nobody"}, {"dtype": "float32"}]
)
def test_a_table_of_rows_must_fit_its_gradient(document, change):
    table = {"name": "table", "role": "gradient_rows", "shape": [42], "dtype": "int32", "of": "w", "offset": None}
    for tensor in document["tensors"]:
        if tensor["name"] == "w_gradient":
            tensor["shape"] = [20, 1]
    document["tensors"].append(table)
    assert Manifest.from_json(json.dumps(document)).tensor("table").shape == (42,)
    document["tensors"][-1] = {**table, **change}
    with pytest.raises(ArtifactError):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize("change", [{"of": ""}, {"of": "w"}, {"of": "G" * 64}, {"entries": False}])
def test_what_is_prepared_needs_a_digest_and_an_entry(document, change):
    prepared = {"name": "p", "role": "prepared", "shape": [42], "dtype": "float32", "of": "a" * 64, "offset": None}
    document["tensors"].append(prepared)
    document["entries"]["prepare"] = ["w", "p"]
    assert Manifest.from_json(json.dumps(document)).tensor("p").of == "a" * 64
    if change.pop("entries", True):
        document["tensors"][-1] = {**prepared, **change}
    else:
        del document["entries"]["prepare"]
    with pytest.raises(ArtifactError, match="prepared"):
        Manifest.from_json(json.dumps(document))


def hostile_tensors():
    yield from [("name", 3), ("role", "secret"), ("dtype", "object"), ("dtype", "O"), ("dtype", "float31")]
    yield from [("shape", None), ("shape", [-1]), ("shape", [2.0]), ("shape", [True]), ("shape", [1] * 33)]
    yield from [("shape", [1 << 40, 1 << 40]), ("offset", -64), ("offset", 1 << 40), ("offset", 3), ("of", None)]


@pytest.mark.parametrize(("field", "value"), list(hostile_tensors()))
def test_hostile_tensors_are_refused(document, field, value):
    output = next(tensor for tensor in document["tensors"] if tensor["role"] == "output")
    output[field] = value
    with pytest.raises(ArtifactError):
        Manifest.from_json(json.dumps(document))


def test_each_missing_field_is_refused(document):
    for field in document:
        with pytest.raises(ArtifactError):
            Manifest.from_json(json.dumps({name: value for name, value in document.items() if name != field}))


def test_duplicate_names_and_inputs_inside_the_workspace_are_refused(document):
    again = json.loads(json.dumps(document))
    again["tensors"].append(again["tensors"][0])
    with pytest.raises(ArtifactError, match="same name"):
        Manifest.from_json(json.dumps(again))
    document["tensors"][0]["offset"] = 0
    with pytest.raises(ArtifactError, match="workspace"):
        Manifest.from_json(json.dumps(document))


def test_damage_to_any_file_is_noticed(folder):
    for name in ("module.o", "constants.npz"):
        whole = (folder / name).read_bytes()
        for bad in (whole[:-1], b"", whole[:100] + b"\0" + whole[101:] + b"x"):
            (folder / name).write_bytes(bad)
            with pytest.raises(ArtifactError, match=name):
                Artifact.load(folder)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"cannot read .*{name}"):
            Artifact.load(folder)
        (folder / name).write_bytes(whole)
    Artifact.load(folder)
    with pytest.raises(ArtifactError, match="does not match"):
        Artifact.load(folder, digest="0" * 64)
    with pytest.raises(ArtifactError, match="cannot read"):
        verify(folder / "nowhere")


def test_constants_that_are_no_plain_arrays_are_refused(folder, rewrite_manifest):
    import hashlib

    def put(data: bytes) -> None:
        (folder / "constants.npz").write_bytes(data)
        rewrite_manifest(folder, constants_sha256=hashlib.sha256(data).hexdigest())

    def saved(**arrays) -> bytes:
        np.savez(folder / "other.npz", **arrays)
        return (folder / "other.npz").read_bytes()

    for data in (
        b"",
        b"not a zip",
        saved(other=1),
        saved(scale=np.array([{}], object)),
        saved(scale=np.zeros(3, "f4")),
    ):
        put(data)
        with pytest.raises(ArtifactError, match=r"constants\.npz"):
            Artifact.load(folder)


def test_a_cpu_without_the_needed_features_is_told_so(folder, rewrite_manifest):
    rewrite_manifest(folder, cpu_flags=("avx2", "avx1024"), target="cpu:x86-64-v9")
    with pytest.raises(IncompatibleCpuError, match=r"cpu:x86-64-v9 and needs avx1024.*--target"):
        Artifact.load(folder)


def test_a_library_that_cannot_be_loaded_or_lacks_the_function(folder, rewrite_manifest):
    import hashlib

    with pytest.raises(ArtifactError, match="no function 'nothing'"):
        Artifact.load(folder).function("nothing")
    (folder / "module.so").write_bytes(b"\x7fELF not really")
    digest = hashlib.sha256((folder / "module.so").read_bytes()).hexdigest()
    rewrite_manifest(folder, library="module.so", library_sha256=digest)
    with pytest.raises(ArtifactError, match="cannot load"):
        Artifact.load(folder).function("forward")
