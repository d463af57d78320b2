"""What follows from parameters alone has an entry of its own in programs for inference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiled_programs import CompiledProgram
from reference_ops import as_float64, run_program

import bucketmod as mx
from bucketmod.compiler.pipeline import compile_program
from bucketmod.export import export_symbol

S = mx.sym
INPUTS, HIDDEN = 64, 70  # a weight that is large enough to be kept


def layer(weight, rows=3, **others):
    """The program of a layer whose weight is the symbol ``weight``, with ``others`` as further outputs."""
    head = S.FullyConnected(S.Variable("data"), weight=weight, num_hidden=HIDDEN, name="fc")
    return export_symbol(S.Group([head, *others.values()]), {"data": (rows, INPUTS)}, data_names=["data"],
                         label_names=[], is_train=False)  # fmt: skip


def manifest(program):
    return compile_program(program, "infer", (), "cpu:x86-64-v3").manifest


def variable(name="w"):
    return S.Variable(name, shape=(HIDDEN, INPUTS))


def digests(program):
    return [spec.of for spec in manifest(program).by_role("prepared")]


def test_the_entry_for_every_step_does_not_read_weights_that_were_prepared():
    for weight in (variable(), S.relu(variable()) * 2.0):
        found = manifest(layer(weight))
        (spec,) = found.by_role("prepared")
        assert spec.name in found.entries["prepare"] and spec.name in found.entries["infer"]
        assert "w" in found.entries["prepare"] and "w" not in found.entries["infer"]


def test_buckets_of_one_model_have_the_same_digest_and_other_computations_another():
    one = digests(layer(variable()))
    assert one == digests(layer(variable(), rows=200)) != []
    others = [variable("v"), S.relu(variable()), variable() * 2.0, variable() * 3.0]
    found = [*one, *(digest for weight in others for digest in digests(layer(weight)))]
    assert len(set(found)) == len(found) == 5


def test_small_weights_and_what_broadcasting_makes_large_are_computed_in_every_step():
    small = S.FullyConnected(S.Variable("data"), num_hidden=9, name="fc")
    program = export_symbol(small, {"data": (3, 5)}, data_names=["data"], label_names=[], is_train=False)
    assert list(manifest(program).entries) == ["infer"]
    spread = S.broadcast_to(S.Variable("row", shape=(1, INPUTS)), shape=(HIDDEN, INPUTS))
    kept = manifest(layer(spread)).by_role("prepared")
    assert sum(math.prod(spec.shape) for spec in kept) <= INPUTS, "more would be kept than the parameters are"


@pytest.mark.parametrize("of", [lambda w: w, lambda w: S.relu(w) * 2.0], ids=["parameter", "of a parameter"])
def test_results_are_the_same_and_an_output_of_parameters_alone_is_an_output(of, tmp_path):
    parameter = variable()
    program = layer(of(parameter), doubled=parameter * 2.0)
    rng = np.random.default_rng(0)
    values = {port.name: rng.normal(0, 0.5, port.shape).astype(port.dtype) for port in program.inputs}
    found = CompiledProgram(program, tmp_path).run(values)
    wanted = run_program(as_float64(program), {name: v.astype(np.float64) for name, v in values.items()})
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-6, err_msg=name)
