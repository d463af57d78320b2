"""Automatic names, attribute scopes, contexts, and what importing the package costs."""

import subprocess
import sys
import threading

import pytest

import bucketmod as mx


def test_names_count_by_hint_and_restart_in_a_fresh_manager():
    with mx.name.NameManager() as outer:
        assert [outer.get(None, "fc"), outer.get(None, "fc"), outer.get(None, "conv")] == ["fc0", "fc1", "conv0"]
        assert outer.get("mine", "fc") == "mine"
        with mx.name.NameManager():
            assert mx.sym.relu(mx.sym.Variable("x")).name == "relu0"
        assert mx.name.NameManager.current is outer
        assert mx.sym.relu(mx.sym.Variable("x")).name == "relu0"


def test_a_prefix_stands_before_given_names_too():
    with mx.name.Prefix("net_"):
        assert mx.sym.relu(mx.sym.Variable("x"), name="act").name == "net_act"
        assert mx.sym.relu(mx.sym.Variable("x")).name == "net_relu0"
        assert mx.sym.Variable("x").name == "x"


def test_names_and_scopes_belong_to_a_thread():
    seen = []
    with mx.name.Prefix("main_"), mx.AttrScope(__a__="1"):
        thread = threading.Thread(target=lambda: seen.append(mx.sym.relu(mx.sym.Variable("x"))))
        thread.start()
        thread.join()
    assert not seen[0].name.startswith("main_") and seen[0].attr("__a__") is None


def test_scopes_merge_and_end():
    with mx.AttrScope(ctx_group="dev1", __a__="1"):
        with mx.AttrScope(__a__="2") as inner:
            x = mx.sym.Variable("x")
            assert mx.AttrScope.current is inner
        y = mx.sym.Variable("y", attr={"__a__": "3"})
    assert (x.attr("__a__"), x.attr("ctx_group"), y.attr("__a__")) == ("2", "dev1", "3")
    assert mx.sym.Variable("z").list_attr() == {}


def test_a_scope_may_be_entered_again():
    scope = mx.AttrScope(__a__="1")
    for _ in range(2):
        with mx.AttrScope(__b__="2"), scope:
            assert mx.sym.Variable("x").list_attr() == {"__a__": "1", "__b__": "2"}
    with scope:
        assert mx.sym.Variable("x").list_attr() == {"__a__": "1"}


def test_attributes_must_be_text():
    with pytest.raises(ValueError, match="lr_mult.*'2'"):
        mx.AttrScope(__lr_mult__=2)
    with pytest.raises(ValueError):
        mx.sym.Variable("x", attr={"__a__": 1})
    with pytest.raises(ValueError):
        mx.sym.relu(mx.sym.Variable("x"), attr={"__a__": 1})


def test_contexts_compare_by_type_and_number():
    assert mx.cpu() == mx.cpu(0) != mx.cpu(1) != mx.gpu(1)
    assert {mx.cpu(0): 1}[mx.Context("cpu", 0)] == 1
    assert (str(mx.gpu(2)), mx.gpu(2).device_type, mx.gpu(2).device_id) == ("gpu(2)", "gpu", 2)
    assert mx.Context(mx.gpu(1)) == mx.gpu(1)
    with pytest.raises(ValueError, match="tpu"):
        mx.Context("tpu")


def test_the_innermost_context_is_current():
    assert mx.current_context() == mx.cpu(0)
    with mx.gpu(1):
        with mx.cpu(2):
            assert mx.current_context() == mx.cpu(2)
        assert mx.current_context() == mx.gpu(1)
    assert mx.current_context() == mx.cpu(0)
    assert mx.num_gpus() >= 0


def loaded_after(statement):
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_of_weight():
    assert "numpy" not in loaded_after("import bucketmod")


def test_building_symbols_needs_no_compiler():
    loaded = loaded_after("import bucketmod as mx; mx.sym.relu(mx.sym.Variable('x')).infer_shape(x=(2,))")
    assert not loaded & {"onnx", "onnxruntime", "tvm", "tvm_ffi", "torch", "bucketmod.compiler", "bucketmod.runtime"}


def test_unknown_names_of_the_package_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_thing"):
        mx.no_such_thing  # noqa: B018
    assert mx.sym is mx.symbol and "sym" in dir(mx) and mx.__version__ == "0.1.0"
