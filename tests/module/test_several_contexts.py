"""Modules on several contexts give the numbers recorded from MXNet."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, FEATURES, batch, classifier, linear
from small_models import parameters as small_parameters

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"


def load_cases():
    spec = importlib.util.spec_from_file_location("context_cases", RECORDED / "context_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load_cases()


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED / "contexts.npz") as file:
        index, values = json.loads(str(file["index"])), file["values"]

    def look_up(entry):
        if isinstance(entry, str):
            return entry
        start, shape = entry
        return values[start : start + int(np.prod(shape))].reshape(shape)

    return {case: {name: look_up(entry) for name, entry in names.items()} for case, names in index.items()}


@pytest.mark.parametrize("case", sorted(cases.CASES))
def test_numbers_are_those_of_mxnet(case, recorded):
    found, wanted = cases.run(mx, case), recorded[case]
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        if isinstance(value, str):
            assert found[name] == value, name
        else:
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def two(**options):
    bind = {name[5:]: options.pop(name) for name in list(options) if name.startswith("bind_")}
    module = mx.mod.Module(classifier(), context=[mx.cpu(0), mx.cpu(1)], **options)
    module.bind([("data", (8, FEATURES))], [("softmax_label", (8,))], **bind)
    module.init_params(arg_params=small_parameters())
    return module


def test_equal_slices_share_one_program_and_contexts_one_memory_each():
    module = two()
    module.forward_backward(batch(8))
    first, second = module._exec_group.execs
    assert first.bucket is second.bucket
    assert first._executors[True].artifact is second._executors[True].artifact
    assert first.memory is not second.memory
    module.reshape([("data", (4, FEATURES))], [("softmax_label", (4,))])
    assert [each.memory for each in module._exec_group.execs] == [first.memory, second.memory]
    module.reshape([("data", (8, FEATURES))], [("softmax_label", (8,))])
    assert module._exec_group.execs == [first, second]
    assert [array.context for array in module._exec_group.param_arrays[0]] == [mx.cpu(0), mx.cpu(1)]


def test_arrays_kept_over_a_step_wait_for_it():
    """As arrays of MXNet do: whoever reads them sees what was asked for before."""
    module, gradients = two(), []
    module.forward_backward(batch(8, seed=1))
    kept = [array for arrays in module._exec_group.grad_arrays for array in arrays]
    for seed in (2, 3):
        module.forward_backward(batch(8, seed=seed))
        gradients.append([array.asnumpy() for array in kept])
    module.forward_backward(batch(8, seed=2))
    kept[-1].wait_to_read()
    for found, wanted in zip(kept, gradients[0], strict=True):
        np.testing.assert_array_equal(found.asnumpy(), wanted)
    outputs = module.get_outputs(merge_multi_context=False)[0]
    module.forward(batch(8, seed=3), is_train=True)
    assert not np.array_equal(outputs[0].asnumpy(), gradients[0][0])
    np.testing.assert_array_equal(outputs[0].asnumpy(), module.get_outputs()[0].asnumpy()[:4])


def test_what_does_not_fit_several_contexts():
    with pytest.raises(ValueError, match="Some splits are empty"):
        mx.mod.Module(linear(), label_names=None, context=[mx.cpu(0), mx.cpu(1)]).bind([("data", (1, FEATURES))])
    with pytest.raises(AssertionError, match="same batch size"):
        two().reshape([("data", (8, FEATURES))], [("softmax_label", (6,))])
    module = two()
    with pytest.raises(AssertionError, match="one for each context"):
        module.forward([batch(8)])
    with pytest.raises(AssertionError, match="same shapes"):
        module.forward([batch(4), batch(2)])
    uneven = two(work_load_list=[1, 3])
    with pytest.raises(mx.MXNetError, match="is bound to"):
        uneven.forward([batch(4), batch(4)])
    with pytest.raises(NotImplementedError, match="CUDA execution"):
        mx.mod.Module(classifier(), context=[mx.cpu(), mx.gpu()]).bind([("data", (8, FEATURES))], None)
    with pytest.raises(mx.MXNetError, match="call forward"):
        module.get_outputs()
    with pytest.raises(AssertionError, match="merge_multi_context"):
        module.get_states()
    module.forward_backward(batch(8))  # and all goes on
    assert module.get_outputs()[0].shape == (8, CLASSES)


def test_missing_head_gradients_are_told_at_once():
    module = mx.mod.Module(linear(), label_names=None, context=[mx.cpu(0), mx.cpu(1)])
    module.bind([("data", (8, FEATURES))])
    module.init_params()
    module.forward(batch(8, label=False))
    with pytest.raises(mx.MXNetError, match="is not a loss"):
        module.backward()
    with pytest.raises(mx.MXNetError, match="has shape"):
        module.backward([mx.nd.ones((8, 2))])
    module.backward([mx.nd.ones((8, CLASSES))])
    mx.nd.waitall()


def test_a_store_as_an_object_serves_one_context_too():
    module = mx.mod.Module(classifier())
    module.bind([("data", (8, FEATURES))], [("softmax_label", (8,))])
    module.init_params(arg_params=small_parameters())
    store = mx.kv.create("local")
    module.init_optimizer(kvstore=store, optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
    module.forward_backward(batch(8))
    module.update()
    assert module._kvstore is store and module._update_on_kvstore and module._updater is None
    assert sorted(store._updater.states) == ["fc_bias", "fc_weight"]
    shared = mx.mod.Module(classifier(), context=[mx.cpu(0)])
    shared.bind([("data", (4, FEATURES))], [("softmax_label", (4,))], shared_module=module)
    assert shared._kvstore is store and shared._optimizer is module._optimizer


def test_compression_is_handed_to_the_store():
    module = two(compression_params={"type": "2bit", "threshold": 0.5})
    module.init_optimizer(kvstore="device", optimizer_params={"learning_rate": 1.0, "rescale_grad": 1.0})
    before = module.get_params()[0]["fc_bias"].asnumpy()
    module.forward_backward(batch(8))
    module.update()
    moved = before - module.get_params()[0]["fc_bias"].asnumpy()
    assert moved.any()
    np.testing.assert_allclose(moved * 2, np.round(moved * 2), atol=1e-6)  # steps of the threshold
    with pytest.raises(Exception, match="not supported"):
        two(compression_params={"type": "2bit"}).init_optimizer(kvstore="local")


def test_rows_are_asked_for_only_where_a_store_updates():
    module = two()
    module.prepare(batch(8))
    with pytest.warns(UserWarning, match="not updated in the KVStore"):
        module.prepare(batch(8), sparse_row_id_fn=lambda one: {})
    module.init_optimizer()
    with pytest.warns(UserWarning, match="is not 'row_sparse'"):
        module.prepare(batch(8), sparse_row_id_fn=lambda one: {"fc_weight": mx.nd.array([0])})
    with pytest.raises(AssertionError, match="dict"):
        module.prepare(batch(8), sparse_row_id_fn=lambda one: [])
    with pytest.raises(ValueError):
        module.prepare(batch(8), sparse_row_id_fn=lambda one: {"nobody": mx.nd.array([0])})


def test_lists_of_batches_of_another_size_bring_their_labels():
    """MXNet forgets that there are labels when a list of batches reshapes it."""
    module, whole = two(), two()
    parts = [batch(2, seed=1), batch(2, seed=2)]
    module.forward_backward(parts)
    joined = [mx.nd.concat(*(getattr(part, kind)[0] for part in parts), dim=0) for kind in ("data", "label")]
    whole.forward_backward(mx.io.DataBatch([joined[0]], [joined[1]]))
    for found, wanted in zip(module._exec_group.grad_arrays, whole._exec_group.grad_arrays, strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    with pytest.raises(mx.MXNetError, match="must bring labels"):
        module.forward([batch(3, label=False), batch(3, label=False)])
