"""Small artifacts made with TVM alone, so that the runtime is tested without the rest of the compiler."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm  # here, at collection: a process whose first import is the runtime's own has no compiler afterwards

from bucketmod.runtime.artifact import Manifest, TensorSpec
from bucketmod.runtime.cpu import host_flags
from bucketmod.runtime.entry import entry_signature

# out = scale * x * w, with scale a constant; its gradients towards w and x. Training keeps x * w in the workspace at 0
# and puts out at 64 * (bytes rounded up), the gradient of x behind it.
# Addresses are in the second words of a table of pairs; 15 is TVM's number for that place of an argument of its own.
_ADDRESS = 'T.reinterpret(T.handle("{dtype}", "global").ty, T.tvm_struct_get(table, {index}, 15, T.handle().ty))'
_SOURCE = """@I.ir_module
class M:
    @T.prim_func(s_tir=True)
    def {forward}(signature: T.int64, table: T.handle("uint8"), workspacep: T.handle("uint8")):
        T.func_attr({{"tirx.noalias": True, "global_symbol": "{forward}"}})
        assert signature == T.int64({forward_signature}), "sizes"
        X = T.decl_buffer(({n},), "float32", data={f[0]})
        W = T.decl_buffer(({n},), "float32", data={f[1]})
        S = T.decl_buffer((1,), "float32", data={f[2]})
        seed = T.decl_buffer((2,), "int64", data={seed})
        workspace = T.decl_buffer(({size},), "uint8", data=workspacep)
        kept = T.decl_buffer(({n},), "float32", data=T.address_of(workspace[0]))
        out = T.decl_buffer(({n},), "float32", data=T.address_of(workspace[{at_out}]))
        for i in range({n}):
            kept[i] = X[i] * W[i]
            out[i] = kept[i] * S[0] + T.Cast("float32", seed[1])
    @T.prim_func(s_tir=True)
    def backward(signature: T.int64, table: T.handle("uint8"), workspacep: T.handle("uint8")):
        T.func_attr({{"tirx.noalias": True, "global_symbol": "backward"}})
        assert signature == T.int64({backward_signature}), "sizes"
        X = T.decl_buffer(({n},), "float32", data={f[0]})
        W = T.decl_buffer(({n},), "float32", data={f[1]})
        S = T.decl_buffer((1,), "float32", data={f[2]})
        H = T.decl_buffer(({n},), "float32", data={f[3]})
        DW = T.decl_buffer(({n},), "float32", data={f[4]})
        workspace = T.decl_buffer(({size},), "uint8", data=workspacep)
        kept = T.decl_buffer(({n},), "float32", data=T.address_of(workspace[0]))
        dx = T.decl_buffer(({n},), "float32", data=T.address_of(workspace[{at_dx}]))
        for i in range({n}):
            DW[i] = H[i] * S[0] * (kept[i] / W[i])
            dx[i] = H[i] * S[0] * W[i]
            kept[i] = T.float32(0)
"""


def _build_object(mode: str, n: int, path: Path) -> None:
    from tvm.script import from_source

    step = -(-4 * n // 64) * 64
    names = dict(n=n, size=3 * step, at_out=step, at_dx=2 * step, forward="forward" if mode == "train" else "infer",
                 forward_signature=entry_signature([4 * n, 4 * n, 4, 16, 3 * step]),
                 backward_signature=entry_signature([4 * n, 4 * n, 4, 4 * n, 4 * n, 3 * step]))  # fmt: skip
    addresses = [_ADDRESS.format(dtype="float32", index=index) for index in range(5)]
    module = from_source(_SOURCE.format(**names, f=addresses, seed=_ADDRESS.format(dtype="int64", index=3)))
    if mode == "infer":
        module = tvm.IRModule({var: f for var, f in module.functions_items() if var.name_hint == "infer"})
    level = "x86-64-v3"
    tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": level})).mod.write_to_file(str(path))


def _manifest(mode: str, n: int, folder: Path, library: str) -> Manifest:
    step = -(-4 * n // 64) * 64
    tensors = [
        TensorSpec("x", "data", (n,), "float32"),
        TensorSpec("w", "parameter", (n,), "float32"),
        TensorSpec("scale", "constant", (), "float32"),
        TensorSpec("__seed__", "seed", (2,), "int64"),
        TensorSpec("out", "output", (n,), "float32", offset=step),
    ]
    forward = ("x", "w", "scale", "__seed__")
    entries = {"infer": forward}
    if mode == "train":
        tensors += [
            TensorSpec("out_head_gradient", "head_gradient", (n,), "float32", of="out"),
            TensorSpec("w_gradient", "gradient", (n,), "float32", of="w"),
            TensorSpec("x_gradient", "gradient", (n,), "float32", of="x", offset=2 * step),
        ]
        entries = {"forward": forward, "backward": ("x", "w", "scale", "out_head_gradient", "w_gradient")}
    return Manifest(
        mode=mode, target="cpu:x86-64-v3", cpu_flags=("avx2",), library=library,
        library_sha256=hashlib.sha256((folder / library).read_bytes()).hexdigest(),
        constants_sha256=hashlib.sha256((folder / "constants.npz").read_bytes()).hexdigest(),
        workspace_bytes=3 * step, nodes=len(entries), compile_seconds=0.5, compiler="test", model_digest="0" * 64,
        tensors=tuple(tensors), entries=entries,
    )  # fmt: skip


def _make(folder: Path, mode: str, n: int, library: str) -> Path:
    folder.mkdir()
    built = folder / "module.o"
    _build_object(mode, n, built)
    if library == "module.so":
        if shutil.which("ld") is None:
            pytest.skip("making a shared library needs a linker, and there is none on PATH")
        subprocess.run(["ld", "-shared", "-o", folder / library, built], check=True)
        built.unlink()
    np.savez(folder / "constants.npz", scale=np.float32(2))
    (folder / "manifest.json").write_text(_manifest(mode, n, folder, library).to_json())
    return folder


@pytest.fixture(scope="session")
def tiny_artifacts(tmp_path_factory):
    """``make(mode, n, library)``: the folder of an artifact; do not change it. Skipped where this CPU has no AVX2."""
    if "avx2" not in host_flags():
        pytest.skip("this CPU has no AVX2")
    root, made = tmp_path_factory.mktemp("artifacts"), {}

    def make(mode: str = "train", n: int = 20, library: str = "module.o") -> Path:
        key = (mode, n, library)
        if key not in made:
            made[key] = _make(root / f"{mode}{n}{library}", *key)
        return made[key]

    return make


@pytest.fixture
def rewrite_manifest():
    """``rewrite(folder, **changes)``: replaces fields of the manifest in a folder."""

    def rewrite(folder: Path, **changes: object) -> None:
        manifest = Manifest.from_json((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(dataclasses.replace(manifest, **changes).to_json())

    return rewrite
