"""Buckets share their memory, and changing between bound ones does next to nothing."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import bucketmod as mx

sys.path.insert(0, str(Path(__file__).parents[1] / "recorded"))

from training_cases import BATCH, BUCKETS, make_module  # noqa: E402


def batch_of(key: int) -> mx.io.DataBatch:
    words = np.random.RandomState(key).randint(1, 23, (BATCH, key))
    return mx.io.DataBatch(
        [mx.nd.array(words)],
        [mx.nd.array(words)],
        bucket_key=key,
        provide_data=[mx.io.DataDesc("data", words.shape)],
        provide_label=[mx.io.DataDesc("softmax_label", words.shape)],
    )


@pytest.fixture
def trained() -> mx.mod.BucketingModule:
    """Every bucket has run a training step."""
    module = make_module(mx, "lstm", "adam")
    for key in BUCKETS:
        module.forward_backward(batch_of(key))
        module.update()
    return module


def executors(module: mx.mod.BucketingModule) -> dict[int, object]:
    return {key: part._exec_group.execs[0]._executors[True] for key, part in module._buckets.items()}


def test_all_buckets_use_one_set_of_arrays(trained) -> None:
    parts = list(trained._buckets.values())
    assert len(parts) == len(BUCKETS)
    assert len({id(part._exec_group.memory) for part in parts}) == 1
    assert len({id(part._updater) for part in parts}) == 1
    memory = parts[0]._exec_group.memory.contexts[0]
    names = {name for part in parts for name in part._param_names}
    assert set(memory.store.parameters) == set(memory.store.gradients) == names
    sizes = {key: executor.artifact.manifest.workspace_bytes for key, executor in executors(trained).items()}
    assert memory.workspace.nbytes == sizes[max(BUCKETS)] == max(sizes.values())
    data = memory.inputs._buffers["data:data"]
    assert data.nbytes == BATCH * max(BUCKETS) * 4


def test_visiting_smaller_buckets_adds_no_arrays() -> None:
    module = make_module(mx, "lstm", "adam")
    module.forward_backward(batch_of(max(BUCKETS)))
    module.update()
    memory = module._buckets[max(BUCKETS)]._exec_group.memory.contexts[0]
    before = [id(array) for array in memory.store.parameters.values()], memory.store.nbytes(), memory.workspace.nbytes
    states = len(module._curr_module._updater.states)
    for key in BUCKETS:
        module.forward_backward(batch_of(key))
        module.update()
    after = [id(array) for array in memory.store.parameters.values()], memory.store.nbytes(), memory.workspace.nbytes
    assert before == after
    assert len(module._curr_module._updater.states) == states


def test_switching_between_bound_buckets_compiles_binds_and_allocates_nothing(trained) -> None:
    cache, compiled = mx.binding.get_cache(), mx.binding.compiled_count()
    looked_up = cache.counts.hits + cache.counts.misses
    calls = {key: executor._calls for key, executor in executors(trained).items()}
    symbols = {key: part.symbol for key, part in trained._buckets.items()}
    shapes = {key: (batch_of(key).provide_data, batch_of(key).provide_label) for key in BUCKETS}
    order = [*BUCKETS, *reversed(BUCKETS)] * 50
    tracemalloc.start()
    try:
        for key in order:
            trained.switch_bucket(key, *shapes[key])
        allocated, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096  # bytes: a few Python objects on the way, no array
    assert mx.binding.compiled_count() == compiled and cache.counts.hits + cache.counts.misses == looked_up
    assert all(executor._calls is calls[key] for key, executor in executors(trained).items())
    assert all(part.symbol is symbols[key] for key, part in trained._buckets.items())


def test_switching_changes_neither_outputs_nor_gradients(trained) -> None:
    key = BUCKETS[1]
    trained.forward_backward(batch_of(key))
    output = trained.get_outputs()[0].asnumpy().copy()
    gradients = {n: g.copy() for n, g in trained._curr_module._exec_group.memory.contexts[0].store.gradients.items()}
    for other in BUCKETS:
        trained.switch_bucket(other, None)
    trained.prepare(batch_of(BUCKETS[0]))
    trained.switch_bucket(key, None)
    np.testing.assert_array_equal(trained.get_outputs()[0].asnumpy(), output)
    for name, gradient in trained._curr_module._exec_group.memory.contexts[0].store.gradients.items():
        np.testing.assert_array_equal(gradient, gradients[name])


# Two layers of LSTM and a wide softmax, so that the workspace is what fills the process.
PROCESS = """
import json, sys
import numpy as np
import bucketmod as mx

VOCABULARY, WIDTH, BATCH = 6000, 32, 32
keys = [int(key) for key in sys.argv[1].split(",")]  # in the order of their first batches
default = int(sys.argv[2])
cell = mx.rnn.SequentialRNNCell()
for layer in range(2):
    cell.add(mx.rnn.LSTMCell(WIDTH, prefix=f"l{layer}_"))

def sym_gen(length):
    data, label = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
    embed = mx.sym.Embedding(data, input_dim=VOCABULARY, output_dim=WIDTH, name="embed")
    cell.reset()
    outputs, _ = cell.unroll(length, embed, merge_outputs=True)
    scores = mx.sym.FullyConnected(mx.sym.Reshape(outputs, shape=(-1, WIDTH)), num_hidden=VOCABULARY, name="pred")
    softmax = mx.sym.SoftmaxOutput(scores, mx.sym.Reshape(label, shape=(-1,)), name="softmax")
    return softmax, ("data",), ("softmax_label",)

def described(length):
    return [("data", (BATCH, length))], [("softmax_label", (BATCH, length))]

module = mx.mod.BucketingModule(sym_gen, default_bucket_key=default)
module.bind(*described(default))
module.init_params(mx.init.Xavier())
module.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": 0.01, "momentum": 0.9})
for _ in range(2):
    for key in keys:
        words = mx.nd.array(np.random.randint(0, VOCABULARY, (BATCH, key)))
        data, label = described(key)
        module.forward_backward(mx.io.DataBatch([words], [words], bucket_key=key, provide_data=data,
                                                provide_label=label))
        module.update()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"kilobytes": peak, "compiled": mx.binding.compiled_count()}))
"""


def test_a_process_that_visited_all_buckets_is_as_large_as_one_that_visited_the_largest() -> None:
    run_python(PROCESS, "32,16,8", "32")  # compiles
    every, largest = run_python(PROCESS, "32,16,8", "32"), run_python(PROCESS, "32", "32")
    smallest_first = run_python(PROCESS, "8,16,32", "8")
    assert every["compiled"] == largest["compiled"] == smallest_first["compiled"] == 0
    assert every["kilobytes"] <= 1.05 * largest["kilobytes"]
    assert smallest_first["kilobytes"] <= 1.05 * largest["kilobytes"]


def shared_sizes(default: int, order: tuple[int, ...]) -> dict[str, int]:
    """Bytes of all that buckets share, after a step of each."""
    module = make_module(mx, "lstm", "adam", default)
    for key in order:
        module.forward_backward(batch_of(key))
        module.update()
    memory = module._curr_module._exec_group.memory.contexts[0]
    states = module._curr_module._updater.states
    return {
        "parameters and gradients": memory.store.nbytes(), "workspace": memory.workspace.nbytes,
        "inputs": sum(buffer.nbytes for buffer in memory.inputs._buffers.values()), "states": states.nbytes(),
        "buckets": len(module._buckets),
    }  # fmt: skip


def test_which_bucket_is_the_default_one_costs_nothing() -> None:
    compiled = mx.binding.compiled_count()
    largest = shared_sizes(max(BUCKETS), tuple(sorted(BUCKETS, reverse=True)))
    compiled_by_largest = mx.binding.compiled_count() - compiled
    for default in BUCKETS:
        assert shared_sizes(default, tuple(sorted(BUCKETS))) == largest
    assert mx.binding.compiled_count() - compiled == compiled_by_largest  # the same programs, nothing rebuilt
