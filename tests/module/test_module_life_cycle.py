"""What a module may be asked at which point of its life, and what it answers otherwise."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from small_models import BATCH, FEATURES, batch, classifier, linear, make_module, parameters

import bucketmod as mx


def test_flags_follow_the_life_cycle():
    module = make_module(bind=False)
    assert (module.binded, module.params_initialized, module.optimizer_initialized) == (False, False, False)
    module.bind([("data", (4, 5))], [("softmax_label", (4,))])
    assert (module.binded, module.params_initialized, module.for_training) == (True, False, True)
    module.init_params()
    assert (module.params_initialized, module.optimizer_initialized) == (True, False)
    module.init_optimizer()
    assert module.optimizer_initialized


def test_names_are_known_before_bind_and_shapes_after():
    module = make_module(bind=False)
    assert module.data_names == ["data"]
    assert module.label_names == ["softmax_label"]
    assert module.output_names == ["softmax_output"]
    for name in ("data_shapes", "label_shapes", "output_shapes"):
        with pytest.raises(AssertionError):
            getattr(module, name)
    module.bind([("data", [4, 5])], [mx.io.DataDesc("softmax_label", (4,))])
    assert module.data_shapes == [("data", (4, 5))]
    assert module.label_shapes == [("softmax_label", (4,))]
    assert module.output_shapes == [("softmax_output", (4, 3))]


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.init_params(), lambda m: m.set_params({}, {}), lambda m: m.get_params(),
        lambda m: m.set_params({}, {}, allow_missing=True), lambda m: m.forward(batch()), lambda m: m.backward(),
        lambda m: m.update(), lambda m: m.get_outputs(), lambda m: m.get_input_grads(), lambda m: m.init_optimizer(),
        lambda m: m.prepare(batch()), lambda m: m.reshape([("data", (4, 5))]), lambda m: m.install_monitor(None),
        lambda m: m.get_states(merge_multi_context=False), lambda m: m.set_states(value=0),
        lambda m: m.score(None, "acc"), lambda m: m.predict(None), lambda m: list(m.iter_predict(None)),
        lambda m: m.save_optimizer_states("x"), lambda m: m.load_optimizer_states("x"),
    ],
)  # fmt: skip
def test_nothing_works_before_bind(call):
    with pytest.raises(AssertionError):
        call(make_module(bind=False))


def test_running_needs_parameters_and_training_needs_an_optimizer():
    module = make_module(init=False)
    for call in (lambda: module.forward(batch()), module.backward, module.get_outputs, module.init_optimizer):
        with pytest.raises(AssertionError):
            call()
    module.init_params()
    with pytest.raises(AssertionError):
        module.update()


def test_results_before_a_forward_are_refused():
    module = make_module(bind_inputs_need_grad=True)
    for call in (module.get_outputs, module.backward, module.get_input_grads):
        with pytest.raises(mx.MXNetError, match="forward"):
            call()


@pytest.mark.parametrize("kind", ["data_names", "state_names", "fixed_param_names"])
def test_unknown_names_are_errors_with_suggestions(kind):
    with pytest.raises(ValueError, match="no argument 'fc_wieght'.*fc_weight"):
        mx.mod.Module(classifier(), **{kind: ["fc_wieght"]})


def test_an_unknown_label_name_only_warns():
    with pytest.warns(UserWarning, match="no argument 'lable'"):
        mx.mod.Module(classifier(), label_names=["lable"])


def test_bind_checks_names():
    module = make_module(bind=False)
    for shapes in ([("dat", (4, 5))], [("data", (4, 5)), ("more", (4,))], []):
        with pytest.raises(ValueError, match="data_names"):
            module.bind(shapes, [("softmax_label", (4,))])
    with pytest.warns(UserWarning, match="label_names"):
        module.bind([("data", (4, 5))], [("other", (4,))])
    assert module.binded


def test_bind_without_labels_warns_and_knows_none():
    module = make_module(bind=False)
    with pytest.warns(UserWarning, match="label_names"):
        module.bind([("data", (4, 5))])
    assert module.label_shapes is None


def test_bind_checks_shapes():
    module = make_module(bind=False)
    with pytest.raises(AssertionError, match="batch size.*softmax_label"):
        module.bind([("data", (4, 5))], [("softmax_label", (7,))])
    with pytest.raises(mx.MXNetError, match="softmax"):
        module.bind([("data", (4, 5))], [("softmax_label", (4, 2, 2))])
    with pytest.raises(TypeError, match="data"):
        module.bind([("data", 4)], [("softmax_label", (4,))])
    assert not module.binded


def test_shapes_that_stay_unknown_are_named():
    free = mx.mod.Module(classifier() + mx.sym.Variable("extra"), data_names=["data"])
    other = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="a")
    other = mx.sym.Group([other, mx.sym.FullyConnected(mx.sym.Variable("unseen"), num_hidden=2, name="b")])
    free.bind([("data", (4, 5))], [("softmax_label", (4,))])
    with pytest.raises(mx.MXNetError, match="unseen"):
        mx.mod.Module(other, label_names=None).bind([("data", (4, 5))])


def test_two_variables_of_one_name_are_refused():
    twice = mx.sym.Variable("data") + mx.sym.Variable("data")
    with pytest.raises(mx.MXNetError, match="data"):
        mx.mod.Module(twice, label_names=None).bind([("data", (4, 5))])


def test_binding_twice_warns_and_changes_nothing(caplog):
    module = make_module()
    module.bind([("data", (9, 5))], [("softmax_label", (9,))], for_training=False)
    assert "Already bound" in caplog.text
    assert module.data_shapes == [("data", (4, 5))]
    assert module.for_training


def test_force_rebind_keeps_parameters():
    module = make_module(optimizer=True)
    module.forward_backward(batch())
    module.update()
    before = module.get_params()[0]["fc_weight"].asnumpy()
    module.forward_backward(batch())
    module.update()
    module.bind([("data", (2, 5))], [("softmax_label", (2,))], for_training=False, force_rebind=True)
    after = module.get_params()[0]["fc_weight"].asnumpy()
    assert module.params_initialized and not module.for_training
    assert not np.allclose(before, after)  # the second update was not lost
    module.forward(batch(2))
    assert module.get_outputs()[0].shape == (2, 3)


def test_input_gradients_need_training():
    with pytest.raises(AssertionError):
        make_module(bind_for_training=False, bind_inputs_need_grad=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("add", ["null", "add", "null", "null"]),
        ({"fc_weight": "add", "unknown": "write"}, ["null", "add", "null", "null"]),
        ({"fc_bias": "add"}, ["null", "write", "add", "null"]),
        (["write", "null", "add", "write"], ["null", "null", "add", "null"]),
        (("null",) * 4, ["null"] * 4),
    ],
)
def test_grad_req_by_text_dict_or_list(given, expected):
    module = make_module(fixed_param_names=["fc_bias"], bind_grad_req=given)
    assert [module._exec_group.grad_req[name] for name in ("data", "fc_weight", "fc_bias", "softmax_label")] == expected


def test_grad_req_of_wanted_inputs():
    module = make_module(bind_inputs_need_grad=True, bind_grad_req={"data": "add"})
    assert module._exec_group.grad_req["data"] == "add"
    assert make_module(bind_inputs_need_grad=True)._exec_group.grad_req["data"] == "write"
    assert set(make_module(bind_for_training=False)._exec_group.grad_req.values()) == {"null"}


def test_bad_grad_reqs():
    for given, error in (("nope", mx.MXNetError), (["write"], AssertionError), (3, ValueError)):
        with pytest.raises(error):
            make_module(init=False, bind_grad_req=given)


def test_features_of_later_versions_are_refused_by_name():
    gpu = mx.mod.Module(classifier(), context=mx.gpu())
    placed = mx.mod.Module(classifier(), group2ctxs={"part": mx.gpu()})
    compressed = mx.mod.Module(classifier(), compression_params={"type": "2bit"})
    shapes = [("data", (4, 5))], [("softmax_label", (4,))]
    for module, name in ((gpu, "CUDA execution"), (placed, "group2ctxs")):
        with pytest.raises(NotImplementedError, match=name):
            module.bind(*shapes)
    compressed.bind(*shapes)  # one context exchanges no gradients, so there is nothing to compress
    with pytest.raises(AssertionError):
        mx.mod.Module(classifier(), work_load_list=[1, 2])
    with pytest.raises(NotImplementedError, match="dist_sync"):
        make_module().init_optimizer(kvstore="dist_sync")


def test_kvstores_that_one_context_does_not_need():
    for kvstore in ("local", "device", None, "nccl"):
        make_module().init_optimizer(kvstore=kvstore)
    with pytest.raises(TypeError, match="kvstore"):
        make_module().init_optimizer(kvstore=3)


def test_init_optimizer_twice_warns(caplog):
    module = make_module(optimizer=True)
    first = module._optimizer
    module.init_optimizer(optimizer="adam")
    assert "already initialized" in caplog.text
    assert module._optimizer is first
    module.init_optimizer(optimizer="adam", force_init=True)
    assert isinstance(module._optimizer, mx.optimizer.Adam)


def test_gradients_are_divided_by_the_batch_size_unless_told_otherwise():
    module = make_module(optimizer=True)
    assert module._optimizer.rescale_grad == 1 / BATCH
    module.init_optimizer(optimizer_params={"rescale_grad": 2.0}, force_init=True)
    assert module._optimizer.rescale_grad == 2
    with pytest.warns(UserWarning, match="rescale_grad"):
        module.init_optimizer(optimizer=mx.optimizer.SGD(), force_init=True)
    assert module._optimizer.idx2name == {0: "fc_weight", 1: "fc_bias"}
    time_major = mx.mod.Module(linear(), label_names=None)
    time_major.bind([mx.io.DataDesc("data", (7, FEATURES), layout="TN")])
    time_major.init_params()
    time_major.init_optimizer()
    assert time_major._optimizer.rescale_grad == 1 / FEATURES


def test_unknown_optimizers():
    with pytest.raises(ValueError, match="foo"):
        make_module().init_optimizer(optimizer="foo")
    with pytest.raises(AssertionError):
        make_module().init_optimizer(optimizer=3)


def test_init_params_twice_warns_and_keeps_values():
    module = make_module()
    with pytest.warns(UserWarning, match="already initialized"):
        module.init_params(mx.init.One())
    assert not (module.get_params()[0]["fc_weight"].asnumpy() == 1).all()
    module.init_params(mx.init.One(), force_init=True)
    assert (module.get_params()[0]["fc_weight"].asnumpy() == 1).all()


def test_missing_and_extra_parameters():
    module = make_module(init=False)
    some = {"fc_weight": parameters()["fc_weight"], "stranger": mx.nd.ones((2,))}
    with pytest.raises(RuntimeError, match="fc_bias is not presented"):
        module.init_params(arg_params=some)
    module.init_params(mx.init.One(), arg_params=some, allow_missing=True)
    assert sorted(module.get_params()[0]) == ["fc_bias", "fc_weight"]
    with pytest.raises(RuntimeError, match="not presented"):
        module.set_params({}, {})
    with pytest.raises(ValueError, match="stranger"):
        module.set_params(some, {}, allow_missing=True)
    module.set_params(some, {}, allow_missing=True, allow_extra=True)
    with pytest.warns(UserWarning, match="already initialized"):
        module.set_params({}, {}, allow_missing=True, force_init=False)
    with pytest.raises(mx.MXNetError, match=r"'fc_weight' has shape \(3, 5\)"):
        module.set_params({"fc_weight": mx.nd.ones((2, 2))}, {}, allow_missing=True)


def test_a_missing_parameter_keeps_its_value_without_an_initializer():
    module = make_module()
    before = module.get_params()[0]["fc_bias"].asnumpy()
    module.init_params(None, arg_params={"fc_weight": mx.nd.ones((3, 5))}, allow_missing=True, force_init=True)
    after = module.get_params()[0]
    assert (after["fc_weight"].asnumpy() == 1).all()
    np.testing.assert_array_equal(after["fc_bias"].asnumpy(), before)


def test_a_variables_own_initializer_wins():
    bias = mx.sym.Variable("fc_bias", init=mx.init.Constant(7))
    scores = mx.sym.FullyConnected(mx.sym.Variable("data"), bias=bias, num_hidden=3, name="fc")
    module = mx.mod.Module(scores, label_names=None)
    module.bind([("data", (4, 5))])
    module.init_params(mx.init.One())
    assert (module.get_params()[0]["fc_bias"].asnumpy() == 7).all()


def test_get_params_hands_out_the_same_arrays_which_are_not_the_programs_own():
    module = make_module(optimizer=True)
    arguments, auxiliary = module.get_params()
    assert auxiliary == {}
    assert module.get_params()[0]["fc_weight"] is arguments["fc_weight"]
    module.forward_backward(batch())
    old = arguments["fc_weight"].asnumpy()
    module.update()
    np.testing.assert_array_equal(arguments["fc_weight"].asnumpy(), old)  # until it is asked for again
    assert module.get_params()[0]["fc_weight"] is arguments["fc_weight"]
    assert not np.array_equal(arguments["fc_weight"].asnumpy(), old)
    module.forward(batch(), is_train=True)
    out = module.get_outputs()[0].asnumpy()
    arguments["fc_weight"][:] = 0
    module.forward(batch(), is_train=True)
    np.testing.assert_array_equal(module.get_outputs()[0].asnumpy(), out)
    module.set_params(arguments, auxiliary)
    module.forward(batch(), is_train=True)
    assert not np.array_equal(module.get_outputs()[0].asnumpy(), out)


def test_monitoring_and_states_of_a_module_without_states():
    module = make_module()
    assert module.get_states(merge_multi_context=False) == []
    with pytest.raises(AssertionError):
        module.get_states()
    with pytest.raises(AssertionError):
        module.set_states()
    with pytest.raises(AssertionError):
        module.set_states(states=[], value=1)
    module.set_states(value=1)


def test_abstract_modules_name_what_they_lack():
    module = mx.mod.BaseModule()
    assert module.logger is logging
    for call in (module.update, module.backward, module.get_outputs, module.get_params, module.init_params,
                 lambda: module.forward(None), lambda: module.bind([]), module.init_optimizer,
                 module.get_input_grads, lambda: module.update_metric(None, None), lambda: module.install_monitor(1),
                 lambda: module.data_names, lambda: module.output_shapes):  # fmt: skip
        with pytest.raises(NotImplementedError):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.prepare(None)
    with pytest.warns(UserWarning, match="sparse_row_id_fn"):
        module.prepare(None, sparse_row_id_fn=lambda b: {})
    assert module.symbol is None
