"""``fit``, ``score`` and ``predict`` call the public methods that MXNet 1.9.1 calls, in its order, and log the same."""

import importlib.util
import json
import pathlib

import pytest

import bucketmod as mx

FOLDER = pathlib.Path(__file__).parents[1] / "recorded"
RECORDED = json.loads((FOLDER / "fit.json").read_text())


def load_recorder():
    spec = importlib.util.spec_from_file_location("record_fit", FOLDER / "record_fit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDER = load_recorder()


@pytest.mark.parametrize("case", RECORDER.CASES)
def test_calls_and_log_lines(case):
    found, wanted = RECORDER.run(mx, case), RECORDED[case]
    assert found["error"] == wanted["error"]
    assert found["log"] == wanted["log"]
    assert found["calls"] == wanted["calls"]


def test_callbacks_find_the_variables_of_the_loop():
    found = RECORDER.names_of_locals(mx)
    for place, names in RECORDED["locals"].items():
        assert set(names) - set(found[place]) <= {"callback"}, place
