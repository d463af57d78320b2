"""Graphs as JSON, in the format of MXNet: nodes, arg_nodes, node_row_ptr, heads, attrs.

Reading also takes older files, which keep attributes under ``attr`` or ``param``, hidden keys without underscores, and
leave out arguments that are now written down. A file is not trusted: whatever does not fit raises MXNetError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from bucketmod.base import MXNetError
from bucketmod.operators import OpDef, get_op
from bucketmod.symbol.compose import HIDDEN_KEYS
from bucketmod.symbol.graph import Entry, Node, topological_nodes

FORMAT_VERSION = 10901  # the MXNet release whose format this is, as MXNet writes it: 1.9.1


def write_graph(outputs: Sequence[Entry]) -> str:
    """JSON text of the graph behind these heads, one line for each node."""
    nodes = topological_nodes(outputs)
    position = {node: i for i, node in enumerate(nodes)}
    lines = [_node_json(node, position) for node in nodes]
    parts = [
        '"nodes": [\n    ' + ",\n    ".join(lines) + "\n  ]",
        f'"arg_nodes": {json.dumps([i for i, node in enumerate(nodes) if node.is_variable])}',
        f'"node_row_ptr": {json.dumps([0, *accumulate(node.num_outputs for node in nodes)])}',
        f'"heads": {json.dumps([[position[node], index, 0] for node, index in outputs])}',
        f'"attrs": {{"mxnet_version": ["int", {FORMAT_VERSION}]}}',
    ]
    return "{\n  " + ",\n  ".join(parts) + "\n}"


def _node_json(node: Node, position: dict[Node, int]) -> str:
    record: dict[str, Any] = {"op": node.op_name, "name": node.name}
    if node.attrs:
        record["attrs"] = dict(sorted(node.attrs.items()))
    states = len(node.op.auxiliary) if node.op is not None else 0
    first_state = len(node.inputs) - states
    record["inputs"] = [[position[child], index, int(i >= first_state)] for i, (child, index) in enumerate(node.inputs)]
    return json.dumps(record)


def read_graph(json_str: str) -> list[Entry]:
    """The heads of the graph that the text describes. Raises MXNetError for text that is no such graph."""
    try:
        data = json.loads(json_str)
    except (ValueError, RecursionError) as error:
        raise MXNetError(f"not a symbol: the text is no JSON ({error})") from None
    records, heads = _list(data, "nodes"), _list(data, "heads")
    nodes: list[Node] = []
    for i, record in enumerate(records):
        nodes.append(_read_node(record, i, nodes))
    if not heads:
        raise MXNetError("not a symbol: it has no heads")
    return [_read_entry(head, nodes, f"head {i}") for i, head in enumerate(heads)]


def _list(data: Any, key: str) -> list[Any]:
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, list):
        raise MXNetError(f"not a symbol: the JSON has no list {key!r}")
    return value


def _read_node(record: Any, i: int, nodes: list[Node]) -> Node:
    where = f"node {i}"
    if not isinstance(record, dict) or not isinstance(record.get("op"), str) or not isinstance(record.get("name"), str):
        raise MXNetError(f"{where}: expected an object with the texts op and name")
    where = f"node {i} {record['name']!r} ({record['op']})"
    inputs = record.get("inputs", [])
    if not isinstance(inputs, list):
        raise MXNetError(f"{where}: inputs is no list")
    if record["op"] == "null":
        if inputs:
            raise MXNetError(f"{where}: a variable has no inputs")
        return Node(None, record["name"], _read_attrs(record, None, where), [])
    try:
        op = get_op(record["op"])
    except MXNetError as error:
        raise type(error)(f"{where}: {error}") from None
    entries = [_read_entry(entry, nodes, where) for entry in inputs]
    node = Node(op, record["name"], _read_attrs(record, op, where), entries)
    _complete_inputs(node, where)
    return node


def _read_attrs(record: dict[str, Any], op: OpDef | None, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in ("param", "attr", "attrs"):
        part = record.get(key, {})
        if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
            raise MXNetError(f"{where}: {key} must map names to texts")
        found.update(part)
    known = {param.name for param in op.params} if op is not None else set()
    result: dict[str, str] = {}
    for key, value in found.items():
        if key in HIDDEN_KEYS and key not in known:
            result[f"__{key}__"] = value
        elif "attr" in record and op is not None and op.params and key not in known and not key.startswith("__"):
            result[f"__{key}__"] = value  # old files mixed the user's own attributes with the operator's
        else:
            result[key] = value
    return result


def _read_entry(entry: Any, nodes: list[Node], where: str) -> Entry:
    if not isinstance(entry, list) or len(entry) < 2 or not all(type(x) is int for x in entry[:2]):
        raise MXNetError(f"{where}: {entry!r} is no [node, output, version]")
    position, index = entry[:2]
    if not 0 <= position < len(nodes):
        raise MXNetError(f"{where}: refers to node {position}, but only {len(nodes)} come before it")
    node = nodes[position]
    if not 0 <= index < node.num_outputs:
        raise MXNetError(f"{where}: refers to output {index} of {node.name!r}, which has {node.num_outputs}")
    return node, index


def _complete_inputs(node: Node, where: str) -> None:
    """Checks the number of inputs; arguments that old files leave out become variables."""
    names = node.input_names
    if len(node.inputs) > len(names):
        raise MXNetError(f"{where}: has {len(node.inputs)} inputs, the operator takes {len(names)}: {_join(names)}")
    for name in names[len(node.inputs) :]:
        assert node.op is not None
        attrs = dict(node.op.variable_attrs.get(name, {}))
        node.inputs.append((Node(None, f"{node.name}_{name}", attrs, []), 0))


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
