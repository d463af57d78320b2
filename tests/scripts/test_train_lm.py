"""The classic language-model script trains from text, and a second run compiles nothing."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_lm.py"


def generated_text(lines: int) -> str:
    """Sentences of a language in which each word has two possible successors."""
    source = random.Random(4)
    words = ["sun", "moon", "rain", "wind", "snow", "leaf", "tree", "bird", "fish", "stone"]
    text = []
    for _ in range(lines):
        at, sentence = source.randrange(10), []
        for _ in range(source.randint(3, 7)):
            sentence.append(words[at])
            at = (3 * at + source.choice((1, 2))) % 10
        text.append(" ".join(sentence) + ".")
    return "\n".join(text) + "\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text(generated_text(600))
    return path


def train(text: Path, cell: str, folder: Path, **environment: str) -> dict[str, Any]:
    """The report of one run."""
    report = folder / "report.json"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--text", str(text), "--buckets", "4,8", "--num-hidden", "16", "--num-embed",
         "12", "--num-layers", "2", "--batch-size", "8", "--lr", "0.01", "--epochs", "3", "--cell", cell,
         "--report", str(report)],
        capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return json.loads(report.read_text())


def check_learning(report: dict[str, Any]) -> None:
    for kind in ("train_perplexity", "valid_perplexity"):
        values = [epoch[kind] for epoch in report["epochs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True), values
    assert report["epochs"][-1]["valid_perplexity"] < report["vocabulary"] / 2


def test_lstm_learns_and_a_second_run_compiles_nothing(text, tmp_path) -> None:
    cold = train(text, "lstm", tmp_path)
    check_learning(cold)
    assert set(cold["buckets"]) == {"4", "8"}
    for bucket in cold["buckets"].values():
        assert bucket["steps"] >= 3 and bucket["median_step_ms"] > 0
    assert cold["cache_hits"] + cold["cache_misses"] == 5  # training and inference of two buckets, and the optimizer
    warm = train(text, "lstm", tmp_path, BUCKETMOD_COMPILE="0")
    assert (warm["cache_hits"], warm["cache_misses"], warm["compile_seconds"]) == (5, 0, 0)
    assert warm["epochs"][-1]["valid_perplexity"] == cold["epochs"][-1]["valid_perplexity"]


def test_the_fused_cell_learns_too(text, tmp_path) -> None:
    check_learning(train(text, "fused", tmp_path))


def test_a_script_for_mxnet_runs_with_its_import_changed(text, tmp_path) -> None:
    source = Path(__file__).with_name("classic_script.py").read_text()
    assert source.count("mxnet as mx") == 1
    changed = tmp_path / "script.py"
    changed.write_text(source.replace("import mxnet as mx", "import bucketmod as mx"))
    run = subprocess.run(
        [sys.executable, str(changed), str(text), str(tmp_path / "model")], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    train, valid = (
        [float(value) for value in re.findall(rf"{kind}-perplexity=([\d.]+)", run.stderr)]
        for kind in ("Train", "Validation")
    )
    assert len(train) == len(valid) == 3
    assert train == sorted(train, reverse=True) and valid == sorted(valid, reverse=True), (train, valid)
    assert re.search(r"Epoch\[0\] Batch \[0-20\]\tSpeed: [\d.]+ samples/sec\tperplexity=", run.stderr)
    checkpoint = float(re.search(r"checkpoint perplexity=([\d.]+)", run.stdout)[1])
    # Not the same: the iterator shuffles again, and what fills no batch of a bucket is left out.
    assert checkpoint == pytest.approx(valid[-1], rel=0.1)
    assert (tmp_path / "model-symbol.json").exists()
