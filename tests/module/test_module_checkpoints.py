"""What modules write to disk, and read back."""

from __future__ import annotations

import os

import numpy as np
import pytest
from small_models import (
    FEATURES,
    batch,
    bucket_batch,
    bucketed,
    make_bucketing,
    make_module,
    numpy_params,
)

import bucketmod as mx


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(first, second):
    for name, value in numpy_params(first).items():
        np.testing.assert_array_equal(value, numpy_params(second)[name])


def step(module, one):
    module.forward_backward(one)
    module.update()


def test_module_checkpoint_with_optimizer_states():
    module = make_module()
    module.init_optimizer(optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
    step(module, batch())
    module.save_checkpoint("m", 3, save_optimizer_states=True)
    assert sorted(os.listdir(".")) == ["m-0003.params", "m-0003.states", "m-symbol.json"]
    again = mx.mod.Module.load("m", 3, load_optimizer_states=True)
    assert again.params_initialized and not again.binded
    again.bind([("data", (4, FEATURES))], [("softmax_label", (4,))])
    same(module, again)
    again.init_optimizer(optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
    for each in (module, again):
        step(each, batch(seed=1))
    same(module, again)


def test_checkpoints_are_those_of_mx_model():
    module = make_module()
    module.save_checkpoint("m", 0)
    symbol, arguments, auxiliary = mx.model.load_checkpoint("m", 0)
    assert symbol.list_arguments() == module.symbol.list_arguments()
    assert sorted(arguments) == ["fc_bias", "fc_weight"] and auxiliary == {}
    plain = make_module(init=False)
    plain.set_params(arguments, auxiliary)
    same(module, plain)


def test_save_and_load_params():
    module, other = make_module(), make_module(init=False)
    module.save_params("p.params")
    other.load_params("p.params")
    same(module, other)
    mx.nd.save("bad.params", {"fc_weight": mx.nd.ones((3, 5))})
    with pytest.raises(ValueError, match="fc_weight"):
        other.load_params("bad.params")
    mx.nd.save("list.params", [mx.nd.ones((3, 5))])
    with pytest.raises(ValueError, match="names"):
        other.load_params("list.params")


def test_a_loaded_module_with_parameters_that_its_graph_lacks():
    module = make_module()
    arguments, auxiliary = module.get_params()
    mx.model.save_checkpoint("m", 1, module.symbol, {**arguments, "stranger": mx.nd.ones((2,))}, auxiliary)
    with pytest.raises(ValueError, match="stranger"):
        mx.mod.Module.load("m", 1).bind([("data", (4, FEATURES))], [("softmax_label", (4,))])


def test_optimizer_states_need_an_optimizer():
    with pytest.raises(AssertionError):
        make_module().save_checkpoint("m", 1, save_optimizer_states=True)


def test_bucketing_checkpoint():
    module = make_bucketing(optimizer=True)
    step(module, bucket_batch(3))
    module.save_checkpoint("b", 2)
    assert sorted(os.listdir(".")) == ["b-0002.params", "b-3-symbol.json", "b-6-symbol.json", "b.buckets"]
    (keys,) = mx.nd.load("b.buckets")
    assert keys.dtype == np.int32 and sorted(keys.asnumpy()) == [3, 6]
    again = mx.mod.BucketingModule.load("b", 2, bucketed, 6)
    assert again.params_initialized and not again.binded
    same(module, again)
    again.bind([("data", (4, 6, FEATURES))], [("softmax_label", (4,))])
    again.init_optimizer(optimizer_params={"learning_rate": 0.5})
    for each in (module, again):
        for key in (3, 6, 8):
            step(each, bucket_batch(key, seed=key))
    same(module, again)


def test_bucketing_load_dict():
    module = make_bucketing()
    arguments, auxiliary = module.get_params()
    symbols = {key: bucketed(key)[0] for key in (3, 6)}
    again = mx.mod.BucketingModule.load_dict(symbols, bucketed, 6, arguments, auxiliary, fixed_param_names=["fc_bias"])
    again.bind([("data", (4, 6, FEATURES))], [("softmax_label", (4,))])
    same(module, again)
    assert again._curr_module._exec_group.grad_req["fc_bias"] == "null"
    complete = dict(sym_dict=symbols, sym_gen=bucketed, default_bucket_key=6, arg_params=arguments, aux_params={})
    for name in complete:
        with pytest.raises(AssertionError, match=name):
            mx.mod.BucketingModule.load_dict(**{**complete, name: None})


def test_bucketing_checkpoints_that_cannot_be():
    with pytest.raises(AssertionError):
        make_bucketing(bind=False).save_checkpoint("b", 1)
    odd = make_bucketing(default=frozenset({6}), sym_gen=lambda key: bucketed(6), bind=False)
    odd.bind([("data", (4, 6, FEATURES))], [("softmax_label", (4,))])
    odd.init_params()
    with pytest.raises(TypeError, match="frozenset"):
        odd.save_checkpoint("b", 1)
    with pytest.raises(AssertionError, match="init_optimizer"):
        make_bucketing().save_checkpoint("b", 1, save_optimizer_states=True)
    for missing in (dict(sym_gen=bucketed), dict(default_bucket_key=6)):
        with pytest.raises(AssertionError):
            mx.mod.BucketingModule.load("b", 1, **missing)
    with pytest.raises(mx.MXNetError):
        mx.mod.BucketingModule.load("nowhere", 1, bucketed, 6)


def test_graphs_that_came_as_onnx_models_are_saved_as_such():
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((3, FEATURES), 2, "f4"), "weight")

    def sym_gen(key):
        nodes = [
            helper.make_node("ReduceMean", ["data"], ["mean"], "mean", axes=[1], keepdims=0),
            helper.make_node("Gemm", ["mean", "weight"], ["scores"], "scores", transB=1),
        ]
        data = helper.make_tensor_value_info("data", TensorProto.FLOAT, (4, key, FEATURES))
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, (4, 3))
        graph = helper.make_graph(nodes, "linear", [data], [scores], [weight])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def bound(module):
        module.bind([("data", (4, 6, FEATURES))], for_training=False)
        return module

    module = bound(mx.mod.BucketingModule(sym_gen, default_bucket_key=6))
    module.init_params(mx.init.One())
    assert (numpy_params(module)["weight"] == 2).all()  # the model's own values come first
    assert module.data_names == ["data"] and module.output_names == ["scores"]
    module.set_params({"weight": mx.nd.array(np.arange(15).reshape(3, 5))}, {})
    one = bucket_batch(3, label=False)
    module.forward(one)
    expected = one.data[0].asnumpy().mean(axis=1) @ np.arange(15).reshape(3, 5).T
    np.testing.assert_allclose(module.get_outputs()[0].asnumpy(), expected, rtol=1e-5, atol=1e-5)
    module.save_checkpoint("b", 1)
    assert sorted(os.listdir(".")) == ["b-0001.params", "b-3-symbol.onnx", "b-6-symbol.onnx", "b.buckets"]
    onnx.checker.check_model(onnx.load("b-3-symbol.onnx"))
    mx.model.save_checkpoint("c", 1, module.symbol, *module.get_params())
    onnx.checker.check_model(onnx.load("c-symbol.onnx"))
    again = mx.mod.BucketingModule.load("b", 1, sym_gen, 6)
    assert again.data_names == ["data"]
    same(module, bound(again))
    with pytest.raises(mx.MXNetError, match="static shape"):
        again.switch_bucket(3, [("data", (4, 7, FEATURES))])
