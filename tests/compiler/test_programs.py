"""Programs read from bytes that may hold anything."""

from __future__ import annotations

import json

import onnx
import pytest

import bucketmod as mx
from bucketmod.compiler.program import Program
from bucketmod.export import export_symbol


@pytest.fixture(scope="module")
def program():
    symbol = mx.sym.Variable("data") * 2
    return export_symbol(symbol, {"data": (2, 3)}, data_names=["data"], label_names=[], is_train=False)


def with_metadata(program: Program, text: str) -> bytes:
    model = onnx.load_model_from_string(program.to_bytes())
    (entry,) = model.metadata_props
    entry.value = text
    return model.SerializeToString()


def test_a_program_comes_back_as_it_was(program):
    assert Program.from_bytes(program.to_bytes()).digest() == program.digest()


@pytest.mark.parametrize(
    "roles",
    [
        [],
        {},
        {"inputs": {}, "outputs": {}},
        {"inputs": {"data": "data"}, "outputs": {}},
        {"inputs": {"data": ["data", "", "more"]}, "outputs": {}},
        {"inputs": {"data": ["nothing", ""]}, "outputs": {}},
        {"inputs": [["data", ["data", ""]]], "outputs": {}},
        None,
    ],
)
def test_roles_that_do_not_describe_the_model_are_refused(program, roles):
    with pytest.raises(ValueError, match="metadata|role"):
        Program.from_bytes(with_metadata(program, json.dumps(roles)))


def test_bytes_that_are_no_program_are_refused(program):
    with pytest.raises(ValueError, match="not an ONNX model|metadata"):
        Program.from_bytes(b"\x08\x01nonsense")
    with pytest.raises(ValueError):
        Program.from_bytes(with_metadata(program, "{not json"))
    with pytest.raises(ValueError):
        Program.from_bytes(with_metadata(program, "[" * 100_000))
