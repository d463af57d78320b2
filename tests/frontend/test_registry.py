"""``mx.registry``: one set of names a base class, whoever asks for it."""

import warnings

import pytest

import bucketmod as mx


class Base:
    def __init__(self, size: int = 1) -> None:
        self.size = size


register = mx.registry.get_register_func(Base, "thing")
alias = mx.registry.get_alias_func(Base, "thing")
create = mx.registry.get_create_func(Base, "thing")


@register
@alias("little", "Small")
class Thing(Base):
    pass


def test_all_functions_of_one_base_share_its_names() -> None:
    assert mx.registry.get_registry(Base) == {"thing": Thing, "little": Thing, "small": Thing}
    again = mx.registry.get_create_func(Base, "thing")
    for name in ("Thing", "LITTLE", "small"):
        assert isinstance(again(name, size=3), Thing)


def test_the_registry_is_handed_out_as_a_copy() -> None:
    mx.registry.get_registry(Base).clear()
    assert isinstance(create("thing"), Thing)
    assert mx.registry.get_registry(type("Other", (), {})) == {}


def test_create_takes_names_json_dicts_and_instances() -> None:
    made = create("thing", 4)
    assert made.size == 4
    assert create(made) is made
    assert create(thing="little", size=2).size == 2
    assert create({"thing": "little", "size": 5}).size == 5
    assert create('["thing", {"size": 6}]').size == 6
    assert create('{"thing": "small", "size": 7}').size == 7
    for wrong in ((made, 1), ("nothing",), (3,), ('["thing", {}]', 2)):
        with pytest.raises(AssertionError):
            create(*wrong)


def test_only_subclasses_and_a_warning_when_a_name_was_taken() -> None:
    with pytest.raises(AssertionError, match="Base"):
        register(dict)
    taken = type("Taken", (Base,), {})
    register(taken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = register(type("Taken", (Base,), {}))
    assert [w.category for w in caught] == [UserWarning]
    assert type(create("taken")) is other


def test_metrics_and_initialisers_are_in_it() -> None:
    metrics = mx.registry.get_registry(mx.metric.EvalMetric)
    assert metrics["acc"] is metrics["accuracy"] is mx.metric.Accuracy
    initialisers = mx.registry.get_registry(mx.init.Initializer)
    assert initialisers["xavier"] is mx.init.Xavier
    assert isinstance(mx.registry.get_create_func(mx.metric.EvalMetric, "metric")("ce"), mx.metric.CrossEntropy)
