"""``scripts/precompile_buckets.py`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "precompile_buckets.py"

MODEL = '''
import bucketmod as mx
from bucketmod.precompile import Plan

def sym_gen(width):
    if width == 13:
        raise KeyError("thirteen is not a width")
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    hidden = mx.sym.FullyConnected(data, num_hidden=4, name="hidden")
    if width == 7:
        hidden = hidden + mx.sym.Variable("odd", shape=(3, 3))
    return mx.sym.SoftmaxOutput(hidden, label, name="softmax"), ("data",), ("softmax_label",)

def shapes(width):
    return [("data", (2, width))], [("softmax_label", (2,))]

def plan():
    return Plan(sym_gen, (5, 6), shapes, name="tiny")

def nothing():
    return None
'''


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path / "model.py"


def run(*arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_compiles_each_bucket_once_and_tells_so(model: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    first = run(f"{model}:plan", "--cache", cache, "--json", "--jobs", 2)
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout)
    assert [(r["key"], r["mode"], r["hit"]) for r in rows] == [
        (5, "train", False), (5, "infer", False), (6, "train", False), (6, "infer", False),
        ("optimizer", "update", False),
    ]  # fmt: skip
    assert all(r["bytes"] > 0 and r["nodes"] > 0 for r in rows), rows
    second = run(f"{model}:plan", "--cache", cache)
    assert second.returncode == 0 and second.stdout.count("cached") == 5, second.stdout


def test_a_bad_bucket_does_not_stop_the_others(model: Path, tmp_path: Path):
    done = run(f"{model}:plan", "--cache", tmp_path / "cache", "--buckets", "13,5,7", "--mode", "infer")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert sum("FAILED" in line for line in lines) == 2 and sum("compiled" in line for line in lines) == 1, done.stdout
    assert "bucket 13 (infer): KeyError: 'thirteen is not a width'" in lines
    assert any(line.startswith("bucket 7 (infer): ") and "shape" in line.lower() for line in lines), done.stdout


@pytest.mark.parametrize(
    "place, message",
    [
        ("missing.py:plan", "no such file: missing.py"),
        ("{model}:absent", "has no function 'absent'"),
        ("{model}:nothing", "returned NoneType, expected a bucketmod.precompile.Plan"),
        ("no_colon", "expected file.py:function or package.module:function"),
        ("no.such.package:plan", "cannot import 'no.such.package'"),
    ],
)
def test_a_wrong_model_is_one_readable_message(model: Path, tmp_path: Path, place: str, message: str):
    done = run(place.format(model=model), "--cache", tmp_path / "cache")
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_needs_neither_compiler_nor_linker_on_path(model: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(f"{model}:plan", "--cache", tmp_path / "cache", "--buckets", "5", path=str(empty))
    assert done.returncode == 0, done.stdout + done.stderr
    libraries = list((tmp_path / "cache" / "objects").glob("*/module.*"))
    assert [path.suffix for path in libraries] == [".o", ".o", ".o"], libraries
    script = (
        "import sys; from pathlib import Path\n"
        "from bucketmod.runtime.artifact import Artifact\n"
        "for path in Path(sys.argv[1]).iterdir(): print(Artifact.load(path).manifest.mode)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script, str(tmp_path / "cache" / "objects")], capture_output=True,
                            text=True, env={**os.environ, "PATH": str(empty)}, check=False)  # fmt: skip
    assert sorted(loaded.stdout.split()) == ["infer", "train", "update"], loaded.stderr
