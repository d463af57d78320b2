"""Entries of a library refuse arguments of other sizes than they were compiled for."""

from __future__ import annotations

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.compiler.artifact_writer import write_artifact
from bucketmod.compiler.pipeline import compile_program
from bucketmod.export import export_symbol
from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.entry import entry_arguments, entry_signature
from bucketmod.runtime.memory import aligned_zeros

ROWS, WIDTH = 4, 6


@pytest.fixture(scope="module")
def infer(tmp_path_factory):
    """A doubling program's entry, and its workspace's size."""
    symbol = mx.sym.Variable("data") * 2
    program = export_symbol(symbol, {"data": (ROWS, WIDTH)}, data_names=["data"], label_names=[], is_train=False)
    folder = tmp_path_factory.mktemp("doubling")
    compiled = compile_program(program, "infer", [], "cpu")
    write_artifact(compiled.manifest, compiled.files, folder)
    artifact = Artifact.load(folder)
    return artifact.function("infer"), artifact.manifest


def test_arguments_of_the_right_sizes_are_taken(infer):
    function, manifest = infer
    data, workspace = aligned_zeros((ROWS, WIDTH)), aligned_zeros(manifest.workspace_bytes, np.uint8)
    data += 3
    function(*entry_arguments([data, workspace]))
    (output,) = manifest.by_role("output")
    got = workspace[output.offset : output.offset + output.nbytes].view(np.float32)
    np.testing.assert_array_equal(got, 6)


def test_other_sizes_are_refused_before_anything_is_touched(infer):
    function, manifest = infer
    data, workspace = aligned_zeros((ROWS, WIDTH - 1)), aligned_zeros(manifest.workspace_bytes, np.uint8)
    workspace += 7
    with pytest.raises(ValueError, match="infer: the arguments do not have the sizes"):
        function(*entry_arguments([data, workspace]))
    np.testing.assert_array_equal(workspace, 7)


def test_memory_that_is_not_aligned_is_refused():
    memory = aligned_zeros(40)
    with pytest.raises(ValueError, match="aligned contiguous"):
        entry_arguments([memory[1:33]])
    with pytest.raises(ValueError, match="aligned contiguous"):
        entry_arguments([memory[::2]])


def test_signatures_tell_sizes_and_their_order_apart():
    signatures = {entry_signature(sizes) for sizes in ([4, 8], [8, 4], [4, 8, 0], [48], [])}
    assert len(signatures) == 5 and all(0 <= signature < 1 << 63 for signature in signatures)
