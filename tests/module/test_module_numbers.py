"""One module on real programs: outputs, gradients and updates against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import (
    CLASSES,
    FEATURES,
    batch,
    classifier,
    expected,
    gradients,
    labels,
    linear,
    make_module,
    numpy_params,
    values,
)

import bucketmod as mx


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def reference(module, one):
    params = numpy_params(module)
    return expected(one.data[0].asnumpy(), one.label[0].asnumpy(), params["fc_weight"], params["fc_bias"])


@pytest.mark.parametrize("is_train", [True, False, None])
def test_forward(is_train):
    module, one = make_module(), batch()
    module.forward(one, is_train=is_train)
    close(module.get_outputs()[0].asnumpy(), reference(module, one)[0])
    ((nested,),) = module.get_outputs(merge_multi_context=False)
    close(nested.asnumpy(), reference(module, one)[0])


def test_backward_of_a_loss():
    module, one = make_module(bind_inputs_need_grad=True), batch()
    module.forward_backward(one)
    probabilities, wanted = reference(module, one)
    close(module.get_outputs()[0].asnumpy(), probabilities)
    for name, gradient in gradients(module).items():
        close(gradient, wanted[name])
    close(module.get_input_grads()[0].asnumpy(), wanted["data"])
    ((nested,),) = module.get_input_grads(merge_multi_context=False)
    close(nested.asnumpy(), wanted["data"])


def test_backward_after_inference_uses_the_same_batch():
    module, one = make_module(), batch(seed=5)
    module.forward(one, is_train=False)
    module.backward()
    close(gradients(module)["fc_weight"], reference(module, one)[1]["fc_weight"])


def test_backward_twice_gives_the_same_gradient():
    module, one = make_module(), batch()
    module.forward(one)
    module.backward()
    first = gradients(module)
    module.backward()
    close(gradients(module)["fc_weight"], first["fc_weight"])


def test_input_gradients_need_to_be_asked_for():
    module = make_module()
    module.forward_backward(batch())
    with pytest.raises(AssertionError):
        module.get_input_grads()


def test_head_gradients_of_outputs_that_are_no_losses():
    module, one = make_module(linear(), labelled=False), batch(label=False)
    module.forward(one)
    with pytest.raises(mx.MXNetError, match="'fc_output' is not a loss"):
        module.backward()
    with pytest.raises(AssertionError, match="NDArray"):
        module.backward([np.ones((4, 3), "f4")])
    with pytest.raises(mx.MXNetError, match=r"shape \(4, 2\), expected \(4, 3\)"):
        module.backward([mx.nd.ones((4, 2))])
    head = values(4, CLASSES, seed=9)
    for given in ([mx.nd.array(head)], mx.nd.array(head), [mx.nd.array(head), mx.nd.ones((1,))]):
        module.backward(given)
        close(gradients(module)["fc_weight"], head.T @ one.data[0].asnumpy())


def test_a_loss_beside_another_output_needs_no_gradient():
    scores = linear()
    both = mx.sym.Group([scores, mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax")])
    module, one, head = make_module(both), batch(), values(4, CLASSES, seed=9)
    module.forward(one)
    module.backward([mx.nd.array(head)])
    close(gradients(module)["fc_weight"], reference(module, one)[1]["fc_weight"] + head.T @ one.data[0].asnumpy())
    assert [out.shape for out in module.get_outputs()] == [(4, 3), (4, 3)]
    assert module.output_names == ["fc_output", "softmax_output"]


def test_update_moves_parameters_by_the_mean_gradient():
    module, one = make_module(optimizer=True), batch()
    before, (_, gradient) = numpy_params(module), reference(module, one)
    module.forward_backward(one)
    module.update()
    after = numpy_params(module)
    for name in ("fc_weight", "fc_bias"):
        close(after[name], before[name] - 0.5 * gradient[name] / 4)
    module.update()  # once more without a new gradient
    close(numpy_params(module)["fc_bias"], after["fc_bias"] - 0.5 * gradient["fc_bias"] / 4)


def test_fixed_and_null_parameters_do_not_move():
    for options in ({"fixed_param_names": ["fc_bias"]}, {"bind_grad_req": {"fc_bias": "null"}}):
        module = make_module(optimizer=True, **options)
        before = numpy_params(module)
        module.forward_backward(batch())
        module.update()
        after = numpy_params(module)
        np.testing.assert_array_equal(after["fc_bias"], before["fc_bias"])
        assert not np.array_equal(after["fc_weight"], before["fc_weight"])


def test_nothing_to_train():
    module = make_module(optimizer=True, fixed_param_names=["fc_weight", "fc_bias"])
    before = numpy_params(module)
    module.forward_backward(batch())
    module.update()
    np.testing.assert_array_equal(numpy_params(module)["fc_weight"], before["fc_weight"])


def test_gradients_add_up():
    module, one = make_module(bind_grad_req="add", bind_inputs_need_grad=True), batch()
    for times in (1, 2, 3):
        module.forward_backward(one)
        wanted = reference(module, one)[1]
        close(gradients(module)["fc_weight"], times * wanted["fc_weight"])
        close(module.get_input_grads()[0].asnumpy(), times * wanted["data"])


def test_a_module_bound_for_inference():
    module = make_module(bind_for_training=False)
    module.forward(batch())
    close(module.get_outputs()[0].asnumpy(), reference(module, batch())[0])
    module.forward(batch(), is_train=True)
    close(module.get_outputs()[0].asnumpy(), reference(module, batch())[0])
    with pytest.raises(AssertionError, match="for_training=True"):
        module.backward()
    module.init_optimizer()
    with pytest.raises(mx.MXNetError, match="for_training"):
        module.update()


def test_labels_stay_when_a_batch_brings_none():
    module, one = make_module(), batch()
    module.forward_backward(one)
    first = gradients(module)
    module.forward_backward(batch(label=False))
    close(gradients(module)["fc_weight"], first["fc_weight"])


def test_labels_of_a_module_bound_without_them_are_zero():
    module = make_module(bind=False)
    with pytest.warns(UserWarning):
        module.bind([("data", (4, FEATURES))])
    module.init_params()
    one = batch(label=False)
    module.forward_backward(one)
    params = numpy_params(module)
    _, wanted = expected(one.data[0].asnumpy(), np.zeros(4), params["fc_weight"], params["fc_bias"])
    close(gradients(module)["fc_weight"], wanted["fc_weight"])


def test_other_batch_sizes_reshape_and_come_back():
    module = make_module()
    for n in (6, 4, 1, 6):
        one = batch(n)
        module.forward_backward(one)
        probabilities, wanted = reference(module, one)
        assert module.data_shapes == [("data", (n, FEATURES))]
        assert module.label_shapes == [("softmax_label", (n,))]
        assert module.output_shapes == [("softmax_output", (n, CLASSES))]
        close(module.get_outputs()[0].asnumpy(), probabilities)
        close(gradients(module)["fc_weight"], wanted["fc_weight"])


def test_reshape_by_hand():
    module = make_module()
    module.reshape([("data", (6, FEATURES))], [("softmax_label", (6,))])
    assert module.output_shapes == [("softmax_output", (6, CLASSES))]
    module.forward(batch(6))
    assert module.get_outputs()[0].shape == (6, CLASSES)
    with pytest.raises(ValueError, match="data_names"):
        module.reshape([("other", (6, FEATURES))])


def test_batches_that_do_not_fit():
    module = make_module()
    with pytest.raises(mx.MXNetError, match="must bring labels"):
        module.forward(batch(6, label=False))
    with pytest.raises(mx.MXNetError, match="fc_weight"):
        module.forward(mx.io.DataBatch([mx.nd.ones((4, 6))], [mx.nd.ones((4,))]))
    with pytest.raises(ValueError, match="data_names"):
        module.forward(mx.io.DataBatch([], [mx.nd.ones((4,))]))
    with pytest.raises(mx.MXNetError, match="softmax_label"):
        module.forward(mx.io.DataBatch([mx.nd.ones((4, 5))], [mx.nd.ones((4, 2))]))
    with pytest.raises(AttributeError):
        module.forward(mx.io.DataBatch([np.ones((4, 5), "f4")], None))
    module.forward(batch())
    with pytest.raises(AssertionError):
        module.forward([batch(), batch()])
    module.forward([batch()])


def test_anything_with_data_is_a_batch_and_other_dtypes_are_converted():
    class Plain:
        data = [mx.nd.array(np.arange(20).reshape(4, 5), dtype="int32")]

    module = make_module()
    module.forward(Plain(), is_train=True)
    params = numpy_params(module)
    wanted = expected(Plain.data[0].asnumpy().astype("f4"), labels(), params["fc_weight"], params["fc_bias"])[0]
    close(module.get_outputs()[0].asnumpy(), wanted)


def test_modules_that_share():
    first = make_module(optimizer=True)
    second = make_module(init=False, n=6, bind_shared_module=first)
    assert second.params_initialized and second.optimizer_initialized
    assert second._optimizer is first._optimizer
    one = batch(6)
    probabilities, gradient = reference(first, one)
    before = numpy_params(first)
    second.forward_backward(one)
    close(second.get_outputs()[0].asnumpy(), probabilities)
    second.update()
    close(numpy_params(first)["fc_weight"], before["fc_weight"] - 0.5 * gradient["fc_weight"] / 4)
    assert first.get_params()[0]["fc_weight"] is second.get_params()[0]["fc_weight"]
    with pytest.raises(mx.MXNetError, match="another bucket"):
        first.forward(batch())
        second.forward(one)
        first.get_outputs()


def test_what_cannot_be_shared():
    for other in (3, make_module(init=False), make_module(bind=False)):
        with pytest.raises(AssertionError):
            make_module(init=False, bind_shared_module=other)
    with pytest.raises(AssertionError):
        make_module().borrow_optimizer(make_module())


def test_states_are_kept_between_batches_until_they_are_set():
    state = mx.sym.Variable("state", shape=(4, 5))
    data = mx.sym.Variable("data")
    module = mx.mod.Module(data + state, label_names=None, state_names=["state"])
    module.bind([("data", (4, 5))], for_training=False)
    module.init_params()
    assert module.get_params() == ({}, {})
    one = batch(label=False)
    module.set_states(value=2)
    for _ in range(2):
        module.forward(one)
        close(module.get_outputs()[0].asnumpy(), one.data[0].asnumpy() + 2)
    ((held,),) = module.get_states(merge_multi_context=False)
    assert (held.asnumpy() == 2).all()
    module.set_states(states=[[module.get_outputs()[0]]])
    module.forward(one)
    close(module.get_outputs()[0].asnumpy(), 2 * one.data[0].asnumpy() + 2)
    with pytest.raises(AssertionError):
        module.set_states(states=[[held]], value=1)


def test_dropout_differs_from_step_to_step_and_repeats_with_the_seed():
    data = mx.sym.Variable("data")
    module = mx.mod.Module(mx.sym.Dropout(data, p=0.5, name="drop"), label_names=None)
    module.bind([("data", (8, 40))])
    module.init_params()
    ones = mx.io.DataBatch([mx.nd.ones((8, 40))])

    def masks():
        mx.random.seed(11)
        found = []
        for _ in range(2):
            module.forward(ones, is_train=True)
            found.append(module.get_outputs()[0].asnumpy())
        return found

    (a, b), (c, d) = masks(), masks()
    assert set(np.unique(a)) == {0, 2} and 0.3 < (a > 0).mean() < 0.7
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, c)
    np.testing.assert_array_equal(b, d)
    module.forward(ones, is_train=False)
    assert (module.get_outputs()[0].asnumpy() == 1).all()


def test_update_metric_by_name_and_pre_sliced():
    module, one = make_module(), batch()
    module.forward(one)
    hits = module.get_outputs()[0].asnumpy().argmax(1) == labels()
    metric = mx.metric.Accuracy(output_names=["softmax_output"], label_names=["softmax_label"])
    module.update_metric(metric, one.label)
    module.update_metric(metric, [one.label], pre_sliced=True)
    assert metric.get()[1] == pytest.approx(hits.mean())


def test_optimizer_states_survive_a_save(tmp_path):
    def trained(steps, states=None):
        module = make_module()
        module.init_optimizer(optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
        if states:
            module.set_params(*states[0])
            module.load_optimizer_states(states[1])
        for _ in range(steps):
            module.forward_backward(batch())
            module.update()
        return module

    half = trained(3)
    half.save_optimizer_states(str(tmp_path / "x.states"))
    resumed = trained(2, states=(half.get_params(), str(tmp_path / "x.states")))
    close(numpy_params(resumed)["fc_weight"], numpy_params(trained(5))["fc_weight"])


def test_symbols_without_data_parameters_or_labels():
    module = mx.mod.Module(classifier(), data_names=["data"], label_names=["softmax_label"])
    assert module.symbol.list_arguments() == ["data", "fc_weight", "fc_bias", "softmax_label"]
