"""Kernels with several outputs, of which others use some."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te

from bucketmod.compiler.lowering.calls import read_calls
from bucketmod.compiler.pipeline import relax_phase
from bucketmod.compiler.target import parse_target

COUNT = 8


def plus(x, number):
    return te.compute((4,), lambda i: x[i] + float(number), name=f"plus{number}")


def joined_items():
    """Two of three outputs of each of several calls of one kernel, put end to end."""
    x = te.placeholder((4,), name="x")
    kernel = te.create_prim_func([x, *(plus(x, k) for k in range(3))])
    bb = relax.BlockBuilder()
    inputs = [relax.Var(f"i{i}", relax.TensorType((4,), "float32")) for i in range(COUNT)]
    with bb.function("main", inputs):
        with bb.dataflow():
            function = bb.add_func(kernel.without_attr("global_symbol"), "three")
            items = []
            for variable in inputs:
                made = bb.emit(relax.call_tir(function, [variable], out_ty=[relax.TensorType((4,), "float32")] * 3))
                items += [bb.emit(relax.TupleGetItem(made, index)) for index in (0, 2)]
            result = bb.emit_output(relax.op.concat(items, 0))
        bb.emit_func_output(relax.Tuple([result]))
    return bb.get()


def test_any_number_of_them_goes_through_fusion():
    module = relax_phase(joined_items())
    calls = read_calls(module).calls
    (join,) = [call for call in calls if "concat" in call.function.name_hint]
    writers = [call for call in calls if call is not join]
    assert len(writers) == COUNT
    expected = [call.writes[index].storage for call in writers for index in (0, 2)]
    assert [view.storage for view in join.reads] == expected


def test_numbers_stay_what_they_are():
    module = relax_phase(joined_items())
    executable = relax.build(module, parse_target("cpu").tvm())
    inputs = [np.full(4, 10.0 * i, np.float32) for i in range(COUNT)]
    (got,) = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, inputs))
    np.testing.assert_array_equal(got.numpy(), np.concatenate([[x, x + 2] for x in inputs]).reshape(-1))
