"""Fifty steps over mixed buckets give the numbers that MXNet 1.9.1 gives (tests/recorded/record_training.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from training_cases import BUCKETS, CASES, train  # noqa: E402

FIRST_STEP, LAST_STEP = 1e-5, 1e-3  # largest difference, relative to the largest element of the array


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:FusedRNNCell runs over TNC")
@pytest.mark.parametrize(("model", "optimizer"), CASES, ids=["-".join(case) for case in CASES])
def test_training_gives_the_numbers_of_mxnet(model: str, optimizer: str) -> None:
    prefix = f"{model}_{optimizer}/"
    with np.load(RECORDED / "training.npz") as archive:
        expected = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    found = train(mx, model, optimizer)
    assert found.keys() == expected.keys()
    distances = {name: distance(found[name], expected[name]) for name in found}
    limits = {name: FIRST_STEP if name.startswith("first") else LAST_STEP for name in found}
    assert {name: d for name, d in distances.items() if not d <= limits[name]} == {}
    assert distance(found["perplexity"][:1], expected["perplexity"][:1]) <= FIRST_STEP


def test_recorded_steps_visit_every_bucket_and_begin_beside_the_default_one() -> None:
    from training_cases import batches

    keys = [batch.bucket_key for batch in batches(mx, "NT")]
    assert set(keys) == set(BUCKETS) and keys[0] != max(BUCKETS)
