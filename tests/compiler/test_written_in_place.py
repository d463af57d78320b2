"""Outputs of kernels that are written over an input."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.tirx.script import builder as T

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.kernel import IN_PLACE
from bucketmod.compiler.lowering.calls import read_calls
from bucketmod.compiler.lowering.host import EntryPoint, build_module
from bucketmod.compiler.lowering.plan import lifetimes, plan_offsets, share_in_place
from bucketmod.compiler.target import parse_target
from bucketmod.runtime.entry import entry_arguments
from bucketmod.runtime.memory import aligned_copy, aligned_zeros

SIZE = 1000
TYPE = relax.TensorType((SIZE,), "float32")


def backward_sums():
    """out[i] = first[i] + first[i + 1] + second[i], where ``out`` may be ``first``: what is needed comes later."""

    def body(first, second, out):
        with T.serial(SIZE - 1) as i:
            T.buffer_store(out, first[i] + first[i + 1] + second[i], [i])
        T.buffer_store(out, first[SIZE - 1] + second[SIZE - 1], [SIZE - 1])

    shape = ((SIZE,), "float32")
    function = emit.build_function("sums", [("first", shape), ("second", shape), ("out", shape)], body)
    return function.with_attr(IN_PLACE, {0: 0})


def module_of(pairs):
    """Calls on pairs of earlier values: 0 and 1 are the inputs, 2 the first result, and so on."""
    bb = relax.BlockBuilder()
    values = [relax.Var(f"i{i}", TYPE) for i in range(2)]
    with bb.function("main", values):
        with bb.dataflow():
            function = bb.add_func(backward_sums().without_attr("global_symbol"), "sums")
            values = list(values)
            for pair in pairs:
                values.append(bb.emit(relax.call_tir(function, [values[i] for i in pair], out_ty=TYPE)))
            result = bb.emit_output(relax.Tuple([values[-1]]))
        bb.emit_func_output(result)
    return bb.get()


def places(pairs):
    """The calls, and the offset in the workspace of the result of each."""
    calls = read_calls(module_of(pairs)).calls
    pinned = {calls[-1].writes[0].storage}
    homes = share_in_place(calls, pinned)
    offsets, total = plan_offsets(lifetimes(calls, pinned, homes))
    offsets |= {storage: offsets[home] for storage, home in homes.items()}
    return calls, offsets, total


def test_results_take_the_place_of_what_nobody_reads_again():
    calls, offsets, total = places([(0, 1), (2, 1), (3, 0)])
    assert {offsets[call.writes[0].storage] for call in calls} == {0}
    assert total < 2 * 4 * SIZE


def test_what_is_read_again_stays():
    for pairs in ([(0, 1), (2, 1), (3, 2)], [(0, 1), (2, 2)]):
        calls, offsets, _ = places(pairs)
        first, second = (offsets[call.writes[0].storage] for call in calls[:2])
        assert abs(first - second) >= 4 * SIZE


def test_outputs_of_the_program_are_not_written_over():
    calls = read_calls(module_of([(0, 1), (2, 1)])).calls
    outputs = {call.writes[0].storage for call in calls}
    assert share_in_place(calls, outputs) == {}


def test_numbers_are_the_same_in_place():
    module = module_of([(0, 1), (2, 1), (3, 0)])
    read = read_calls(module)
    pinned = {read.calls[-1].writes[0].storage}
    homes = share_in_place(read.calls, pinned)
    offsets, total = plan_offsets(lifetimes(read.calls, pinned, homes))
    offsets |= {storage: offsets[home] for storage, home in homes.items()}
    functions = {var: f for var, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    entry = EntryPoint("run", read.inputs, read.calls)
    built = tvm.tirx.build(build_module(functions, [entry], offsets, total), parse_target("cpu").tvm(), "bucketmod")
    a, b = (aligned_copy(np.random.default_rng(i).standard_normal(SIZE).astype(np.float32)) for i in range(2))
    workspace = aligned_zeros(total, np.uint8)
    built["run"](*entry_arguments([a, b, workspace]))
    got = workspace[: 4 * SIZE].view(np.float32)

    def sums(x, y):
        return x + np.append(x[1:], np.float32(0)) + y

    np.testing.assert_array_equal(got, sums(sums(sums(a, b), b), a))
