"""group2ctxs: graphs cut over contexts give the numbers of MXNet 1.9.1 (tests/recorded/record_placement.py) and those
of one context."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx
from bucketmod import binding
from bucketmod.precompile import Plan, bucket_requests, precompile

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from placement_cases import (  # noqa: E402
    BATCH,
    CASES,
    batch,
    by_layer,
    executed,
    perceptron,
    recurrent,
    train,
    two_sided,
    values,
    zigzag,
)


def recorded(case):
    with np.load(RECORDED / "placement.npz") as archive:
        return {n.removeprefix(f"{case}/"): archive[n] for n in archive.files if n.startswith(f"{case}/")}


def close(found, expected, **limits):
    assert found.keys() == expected.keys() and expected
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], err_msg=name, **(limits or {"rtol": 1e-4, "atol": 1e-6}))


def parts_of(symbol, group2ctx, **shapes):
    bucket = binding.make_bucket(symbol, list(shapes.items()), data_names=list(shapes), label_names=["softmax_label"])
    return binding.place(bucket, mx.cpu(0), group2ctx)


@pytest.mark.parametrize("case", CASES)
def test_training_over_contexts_gives_the_numbers_of_mxnet(case):
    placed = train(mx, case, CASES[case][1](mx))
    close(placed, recorded(case))
    close(train(mx, case, None), placed, rtol=1e-5, atol=1e-7)


def test_an_executor_over_contexts_gives_the_numbers_of_mxnet():
    placed = executed(mx, two_sided(mx))
    close(placed, recorded("zigzag"))
    close(executed(mx, None), placed, rtol=1e-5, atol=1e-7)


def test_as_few_parts_as_the_changes_of_contexts_allow():
    by_layers = parts_of(recurrent(mx), by_layer(mx), data=(4, 4), softmax_label=(4, 4))
    assert [len(part.cuts) for part in by_layers.parts] == [0, 1]
    apart = {"embed": mx.cpu(0), "layer0": mx.cpu(1), "layer1": mx.cpu(0), "decode": mx.cpu(1)}
    bucket = parts_of(recurrent(mx), apart, data=(4, 4), softmax_label=(4, 4))
    assert [part.context for part in bucket.parts] == [mx.cpu(0), mx.cpu(1), mx.cpu(0), mx.cpu(1)]
    there_and_back = parts_of(zigzag(mx), two_sided(mx), data=(2, 5))
    assert [part.context for part in there_and_back.parts] == [mx.cpu(1), mx.cpu(2), mx.cpu(1)]
    assert there_and_back.output_contexts(mx.cpu(0)) == [mx.cpu(1), mx.cpu(1)]


def test_operators_wait_for_the_part_that_needs_them():
    """A value that only a later part on the same context reads is made there, so no part is needed for it."""
    s = mx.sym
    with mx.AttrScope(ctx_group="first"):
        start = s.exp(s.Variable("data"), name="start")
    with mx.AttrScope(ctx_group="second"):
        early = s.sin(s.Variable("other"), name="early")
        end = s.elemwise_add(start, early, name="end")
    bucket = parts_of(end, two_sided(mx), data=(2, 2), other=(2, 2))
    assert [[n for n, _ in part.bucket.outputs] for part in bucket.parts] == [["start_output"], ["end_output"]]
    executor = end.simple_bind(mx.cpu(), grad_req="null", group2ctx=two_sided(mx), data=(2, 2), other=(2, 2))
    assert executor.forward()[0].asnumpy().tolist() == [[1, 1], [1, 1]]


def test_arrays_live_where_their_groups_are():
    executor = perceptron(mx).simple_bind(mx.cpu(0), group2ctx=two_sided(mx), data=(2, 5))
    first, second = mx.cpu(1), mx.cpu(2)
    expected = {"data": first, "fc1_weight": first, "fc1_bias": first, "fc2_weight": second, "fc2_bias": second,
                "softmax_label": second}  # fmt: skip
    assert {name: array.context for name, array in executor.arg_dict.items()} == expected
    assert {name: array.context for name, array in executor.grad_dict.items()} == expected
    assert [out.context for out in executor.outputs] == [second]
    executor.forward()
    assert [out.context for out in executor.outputs] == [second]


def test_a_weight_of_two_groups_and_gradients_that_add_up():
    """MXNet refuses a gradient that is added up on another context than its variable's; here it is the sum."""
    s = mx.sym
    weight = s.Variable("weight")
    with mx.AttrScope(ctx_group="first"):
        one = s.FullyConnected(s.Variable("data"), weight=weight, num_hidden=3, no_bias=True, name="one")
    with mx.AttrScope(ctx_group="second"):
        two = s.FullyConnected(one, weight=weight, num_hidden=3, no_bias=True, name="two")
    found = []
    for groups in (two_sided(mx), None):
        for request in ("write", "add"):
            args = {"data": mx.nd.array(values(2, 3)), "weight": mx.nd.array(values(3, 3, seed=1))}
            grads = {name: mx.nd.ones(array.shape) for name, array in args.items()}
            executor = two.bind(mx.cpu(0), args, grads, request, group2ctx=groups)
            for _ in range(2):
                executor.forward(is_train=True)
                executor.backward(mx.nd.ones((2, 3)))
            found.append({name: array.asnumpy() for name, array in grads.items()})
    close(found[0], found[2])
    close(found[1], found[3])
    np.testing.assert_allclose(found[1]["weight"], 1 + 2 * found[0]["weight"], rtol=1e-6)


@pytest.mark.parametrize("request_", ["write", "add"])
def test_gradients_of_an_input_that_two_contexts_read(request_):
    data = mx.sym.Variable("data")
    with mx.AttrScope(ctx_group="first"):
        one = mx.sym.square(data, name="one")
    with mx.AttrScope(ctx_group="second"):
        two = mx.sym.MakeLoss(mx.sym.elemwise_mul(one, data), name="cube")
    module = mx.mod.Module(two, label_names=None, group2ctxs=two_sided(mx))
    module.bind([("data", (2, 3))], inputs_need_grad=True, grad_req=request_)
    module.init_params()
    given = values(2, 3)
    for times in (1, 2):
        module.forward_backward(mx.io.DataBatch([mx.nd.array(given)]))
        expected = 3 * given**2 * (times if request_ == "add" else 1)
        np.testing.assert_allclose(module.get_input_grads()[0].asnumpy(), expected, rtol=1e-5)


def test_every_part_is_an_artifact_that_can_be_compiled_ahead():
    plan = Plan(
        lambda key: (perceptron(mx), ("data",), ("softmax_label",)),
        [1],
        lambda key: ([("data", (BATCH, 5))], [("softmax_label", (BATCH,))]),
        group2ctx=two_sided(mx),
    )
    row, _ = precompile(plan, modes=("train",), show_progress=False)
    assert not row.error and row.nodes > 2
    (requests,) = bucket_requests(plan, 1, "cpu", ("train",))
    assert len({request.request_digest for request in requests}) == 2
    before = binding.compiled_count()
    train(mx, "perceptron", two_sided(mx))
    assert binding.compiled_count() == before
    again, _ = precompile(plan, modes=("train",), show_progress=False)
    assert again.hit and again.nodes == row.nodes


@pytest.mark.parametrize(
    "groups",
    [
        lambda: {"first": [mx.cpu(1)], "second": mx.cpu(2)},
        lambda: [{"first": mx.cpu(1), "second": mx.cpu(2)}],
    ],
)
def test_forms_of_the_mapping(groups):
    close(train(mx, "perceptron", groups()), recorded("perceptron"))


def test_two_contexts_each_with_groups_of_their_own():
    groups = {"first": [mx.cpu(1), mx.cpu(3)], "second": mx.cpu(2)}
    close(train(mx, "perceptron", groups, [mx.cpu(0), mx.cpu(5)]), recorded("perceptron"))


@pytest.mark.parametrize("groups", [[{}, {}], {"first": [mx.cpu(1), mx.cpu(2)]}, "first"])
def test_mappings_that_do_not_fit(groups):
    module = mx.mod.Module(perceptron(mx), group2ctxs=groups)
    with pytest.raises(AssertionError, match="group2ctxs"):
        module.bind([("data", (BATCH, 5))], [("softmax_label", (BATCH,))])


def test_groups_without_a_context_and_contexts_that_cannot_run():
    with pytest.raises(RuntimeError, match="ctx_group 'second'"):
        perceptron(mx).simple_bind(mx.cpu(0), group2ctx={"first": mx.cpu(1)}, data=(2, 5))
    with pytest.raises(NotImplementedError, match=r"gpu\(0\)"):
        perceptron(mx).simple_bind(mx.cpu(0), group2ctx={"first": mx.cpu(1), "second": mx.gpu()}, data=(2, 5))


def test_an_output_that_comes_twice_has_two_gradients():
    s = mx.sym
    with mx.AttrScope(ctx_group="first"):
        one = s.exp(s.Variable("data"), name="one")
    with mx.AttrScope(ctx_group="second"):
        two = s.square(one, name="two")
    both = s.Group([one, two, one])
    for groups in (two_sided(mx), None):
        executor = both.simple_bind(mx.cpu(0), group2ctx=groups, data=(2,))
        executor.forward(is_train=True)
        executor.backward([mx.nd.array([1, 2]), mx.nd.array([10, 20]), mx.nd.array([100, 200])])
        np.testing.assert_allclose(executor.grad_dict["data"].asnumpy(), [121, 242], rtol=1e-6)


def test_missing_and_wrong_head_gradients():
    executor = zigzag(mx).simple_bind(mx.cpu(0), group2ctx=two_sided(mx), data=(2, 5))
    executor.forward(is_train=True)
    with pytest.raises(mx.MXNetError, match="'left_output' is not a loss"):
        executor.backward()
    with pytest.raises(mx.MXNetError, match=r"\(2, 3\)"):
        executor.backward([mx.nd.ones((2, 3)), mx.nd.ones((2, 3))])


def test_results_of_another_executor_in_the_same_memory_are_refused():
    one = zigzag(mx).simple_bind(mx.cpu(0), group2ctx=two_sided(mx), data=(2, 5))
    two = one.reshape(data=(2, 5))
    heads = [mx.nd.ones((2, 3)), mx.nd.ones((2, 4))]
    one.forward(is_train=True)
    two.forward(is_train=True)
    with pytest.raises(mx.MXNetError, match="another bucket"):
        one.backward(heads)
    two.backward(heads)


def test_dropout_of_two_parts_is_not_the_same():
    s = mx.sym
    with mx.AttrScope(ctx_group="first"):
        one = s.Dropout(s.Variable("data"), p=0.5, name="one")
    with mx.AttrScope(ctx_group="second"):
        two = s.Dropout(s.exp(one, name="e"), p=0.5, name="two")
    both = s.Group([one, two])
    executor = both.simple_bind(mx.cpu(0), group2ctx=two_sided(mx), data=(40, 50))
    executor.arg_dict["data"][:] = 1
    first, second = (output.asnumpy() for output in executor.forward(is_train=True))
    kept = first > 0
    assert 0.4 < kept.mean() < 0.6 and 0.4 < (second[kept] > 0).mean() < 0.6


def test_buckets_and_monitors_over_contexts():
    def sym_gen(length):
        return recurrent(mx), ("data",), ("softmax_label",)

    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=4, group2ctxs=by_layer(mx))
    module.bind([("data", (4, 4))], [("softmax_label", (4, 4))])
    module.init_params(mx.init.Xavier())
    monitor = mx.mon.Monitor(1)
    module.install_monitor(monitor)
    one = batch(mx, "recurrent", 0)
    one.bucket_key, one.provide_data, one.provide_label = 4, [("data", (4, 4))], [("softmax_label", (4, 4))]
    monitor.tic()
    module.forward_backward(one)
    entries = {name: text for _, name, text in monitor.toc()}
    assert {"embed_output", "l0_t3_out_output", "l1_t3_out_output", "pred_backward_output1",
            "l0_t0_i2h_backward_output1"} <= set(entries)  # fmt: skip
    assert all(np.isfinite(float(text)) for text in entries.values())
