"""Making nodes: an operator called on symbols, and free variables replaced in a finished graph."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from bucketmod import attribute, name
from bucketmod.base import MXNetError, OperatorError
from bucketmod.operators import OpDef
from bucketmod.symbol.graph import Entry, Node, copy_graph, topological_nodes

# Attributes that address the framework and not the operator; in the graph they are written __like_this__.
HIDDEN_KEYS = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage", "profiler_scope")


@functools.lru_cache(maxsize=4096)
def hidden_key(key: str) -> str:
    """``lr_mult`` -> ``__lr_mult__``; others unchanged. Raises OperatorError for ``weight_lr_mult`` and the like."""
    if key in HIDDEN_KEYS:
        return f"__{key}__"
    if not key.startswith("__"):
        for hidden in HIDDEN_KEYS:
            if key.endswith("_" + hidden):
                argument = key[: -len(hidden) - 1]
                raise OperatorError(
                    f"{key}: give {hidden} to the variable itself: {argument}=Variable(name, {hidden}=...)"
                )
    return key


def single(entries: Sequence[Entry], called: str, argument: str) -> Entry:
    """The one entry of a symbol that stands as an argument. Raises MXNetError when it has several outputs."""
    if len(entries) != 1:
        raise MXNetError(
            f"{called}: argument {argument} has {len(entries)} outputs where one is needed: pick one by index"
        )
    return entries[0]


def apply_operator(
    op: OpDef,
    called: str,
    inputs: dict[str, Entry] | Sequence[Entry],
    attrs: dict[str, str],
    node_name: str | None,
) -> list[Entry]:
    """The visible outputs of a new node.

    ``called``: the spelling that was used; in lower case it is the hint for an automatic name. ``inputs``: entries by
    argument name, or in order. ``attrs``: the texts of the call. Arguments that are not given become variables called
    ``<node>_<argument>``, with the node's attributes. Raises OperatorError naming the node.
    """
    scope = attribute.current()._attr
    if scope:
        attrs = {**scope, **attrs}
    attrs = {hidden_key(k): v for k, v in attrs.items()} if attrs else {}
    node_name = name.current().get(node_name, called.lower())
    node = Node(op, node_name, attrs, [])
    parsed = node.parsed
    names = [*op.inputs_of(parsed), *op.auxiliary]
    if isinstance(inputs, dict):
        given = inputs
        if not inputs.keys() <= set(names):
            extra = ", ".join(sorted(inputs.keys() - set(names)))
            raise OperatorError(f"node {node_name!r}: {called} takes the inputs {', '.join(names)}; it has no {extra}")
    else:
        if len(inputs) > len(names):
            raise OperatorError(f"node {node_name!r}: {called} takes {len(names)} inputs, got {len(inputs)}")
        given = dict(zip(names, inputs, strict=False))
    node.inputs = [given[n] if n in given else (_argument_variable(node, n), 0) for n in names]
    return [(node, i) for i in range(op.visible_of(parsed))]


def _argument_variable(node: Node, argument: str) -> Node:
    assert node.op is not None
    attrs = {**node.attrs, **node.op.variable_attrs.get(argument, {})}
    return Node(None, f"{node.name}_{argument}", attrs, [])


def replace_variables(outputs: Sequence[Entry], replacements: Mapping[str, Entry], new_name: str | None) -> list[Entry]:
    """A copy of the graph with other entries in place of its variables of these names.

    ``new_name`` renames the head. Raises MXNetError for a name that is no variable of the graph.
    """
    variables = {node.name: node for node in topological_nodes(outputs) if node.is_variable}
    for key in replacements:
        if key not in variables:
            raise MXNetError(f"no free variable {key!r} in this symbol; it has: {', '.join(variables)}")
    result = copy_graph(outputs, {variables[key]: entry for key, entry in replacements.items()})
    if new_name and len({node for node, _ in result}) == 1:
        result[0][0].name = new_name
    return result


def text(value: Any) -> str:
    """How an attribute value is written into the graph: as Python prints it, numpy's numbers as plain ones."""
    if isinstance(value, tuple):
        return f"({', '.join([text(v) for v in value])}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join([text(v) for v in value])}]"
    return value if isinstance(value, str) else str(value)
