"""Symbols built in the same words under MXNet 1.9.1 and here: same graphs, names, shapes, types and refusals."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest

import bucketmod as mx

RECORDED = Path(__file__).parent.parent / "recorded"
RECORDS = json.loads((RECORDED / "symbols.json").read_text())
ERRORS = {"MXNetError": mx.MXNetError, "TypeError": TypeError, "ValueError": ValueError, "IndexError": IndexError}

_spec = importlib.util.spec_from_file_location("symbol_cases", RECORDED / "symbol_cases.py")
assert _spec is not None and _spec.loader is not None
symbol_cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(symbol_cases)

# MXNet notices only when it runs that the number of elements differs.
REFUSED_EARLIER = {"S.Reshape(a, shape=(5, 5))"}

GRAPHS = [r for r in RECORDS if "graph" in r]


def identify(record):
    return f"{record['expression']} {record['given'] or ''}".strip()


def given(record):
    return {name: tuple(shape) for name, shape in record["given"].items()}


def listed(shapes):
    return [None if part is None else [list(shape) for shape in part] for part in shapes]


def covers(found, recorded):
    """Whether everything that MXNet knew is known here too; more may be."""
    if recorded is None:
        return True
    return len(found) == len(recorded) and all(
        not r or (len(f) == len(r) and all(y in (0, x) for x, y in zip(f, r, strict=True)))
        for f, r in zip(found, recorded, strict=True)
    )


def normal(graph):
    nodes = [(n["op"], n["name"], n.get("attrs", {}), n["inputs"]) for n in graph["nodes"]]
    return nodes, graph["arg_nodes"], graph["node_row_ptr"], graph["heads"]


def test_every_case_is_recorded():
    assert [r["expression"] for r in RECORDS] == [expression for expression, _ in symbol_cases.cases()]


@pytest.mark.parametrize("record", GRAPHS, ids=identify)
def test_graph_and_names(record):
    symbol = symbol_cases.build(mx, record["expression"])
    assert normal(json.loads(symbol.tojson())) == normal(record["graph"])
    assert symbol.name == record["name"]
    assert symbol.list_arguments() == record["arguments"]
    assert symbol.list_auxiliary_states() == record["auxiliary"]
    assert symbol.list_outputs() == record["outputs"]
    if "internals" in record:
        assert symbol.get_internals().list_outputs() == record["internals"]
        assert symbol.attr_dict() == record["attributes"]


@pytest.mark.parametrize("record", GRAPHS, ids=identify)
def test_shapes_and_types(record):
    symbol = symbol_cases.build(mx, record["expression"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, infer in (("shapes", symbol.infer_shape), ("partial", symbol.infer_shape_partial)):
            if record[key] == "MXNetError" or record["expression"] in REFUSED_EARLIER:
                with pytest.raises(mx.MXNetError):
                    infer(**given(record))
            else:
                found = listed(infer(**given(record)))
                assert all(covers(f, r) for f, r in zip(found, record[key], strict=True)), (key, found)
    if record["types"] != "MXNetError":
        types = symbol.infer_type(**dict.fromkeys(symbol.list_arguments()[:1], "float32"))
        assert [None if part is None else [t.__name__ for t in part] for part in types] == record["types"]


@pytest.mark.parametrize("record", GRAPHS, ids=identify)
def test_recorded_json_reads_back_and_writes_the_same_graph(record):
    symbol = mx.sym.load_json(json.dumps(record["graph"]))
    assert normal(json.loads(symbol.tojson())) == normal(record["graph"])
    assert symbol.list_outputs() == record["outputs"]


@pytest.mark.parametrize("record", [r for r in RECORDS if "error" in r], ids=identify)
def test_refusals(record):
    with pytest.raises(ERRORS[record["error"]]):
        symbol_cases.build(mx, record["expression"])
