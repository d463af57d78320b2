"""One order and one set of names for backward nodes, whatever order the builder found them in.

The builder walks hash tables, so the same model gives different files in different processes; an artifact's identity
needs equal bytes. Every tensor gets a digest of how it is computed from the forward tensors. Equal digests are computed
once, sums are ordered by digest, and nodes run in reverse order of the forward nodes that they belong to, digests
deciding between equals.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.graph.parts import BACKWARD

AT_ONCE = 1 << 60  # position of a node that runs as soon as it can: a sum frees what it adds up

# Attributes that the builder writes although they say nothing.
_NO_NEWS = {"transBatchA": 0, "transBatchB": 0, "noop_with_empty_axes": 0, "allowzero": 0}


@dataclass
class BackwardNode:
    """``position``: of the forward node whose gradient this node is part of."""

    position: int
    proto: NodeProto
    digest: bytes = b""


@dataclass
class Names:
    """How nodes and tensors are to be called. ``fresh`` turns a wish into a name that no tensor has."""

    stem: Callable[[int], str]  # position of a forward node -> stem for the names of its backward nodes
    wishes: Mapping[str, str]  # builder's name of a tensor -> name to give it
    fresh: Callable[[str], str]


@dataclass
class CanonicalBackward:
    """``finals``: the name here of each result that was asked for."""

    nodes: list[NodeProto]
    constants: dict[str, np.ndarray]
    finals: dict[str, str]


def canonical_backward(
    nodes: Sequence[BackwardNode], constants: Mapping[str, np.ndarray], results: Sequence[str], names: Names
) -> CanonicalBackward:
    """The nodes that ``results`` need, each once, in running order, under canonical names.

    A tensor that neither a node makes nor ``constants`` hold is a forward tensor and keeps its name.
    """
    ordered, aliases = _without_identities(_topological(nodes))
    results_at = [aliases.get(name, name) for name in results]
    _flatten_sums(ordered, results_at)
    kept, twins = _merge_equals(ordered, constants)
    results_at = [twins.get(name, name) for name in results_at]
    scheduled = _schedule(_needed(kept, results_at))
    wishes: dict[str, str] = {}
    for name, wish in sorted(names.wishes.items()):
        at = aliases.get(name, name)
        wishes.setdefault(twins.get(at, at), wish)
    found = dict(zip(results, results_at, strict=True))
    return _rename(scheduled, constants, found, Names(names.stem, wishes, names.fresh))


def _topological(nodes: Sequence[BackwardNode]) -> list[BackwardNode]:
    makers = {name: i for i, node in enumerate(nodes) for name in node.proto.output if name}
    sources = [{makers[name] for name in node.proto.input if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(sources):
        for source in needed:
            readers[source].append(i)
    missing = [len(needed) for needed in sources]
    ready = [i for i, count in enumerate(missing) if not count]
    for i in ready:  # grows while it is read
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    if len(ready) != len(nodes):
        raise CompileError("the backward graph has a cycle")
    return [nodes[i] for i in ready]


def _without_identities(ordered: Iterable[BackwardNode]) -> tuple[list[BackwardNode], dict[str, str]]:
    aliases: dict[str, str] = {}
    kept = []
    for node in ordered:
        proto = node.proto
        for index, name in enumerate(proto.input):
            proto.input[index] = aliases.get(name, name)
        if proto.op_type == "Identity" or (proto.op_type == "Sum" and len(proto.input) == 1):
            aliases[proto.output[0]] = proto.input[0]
        else:
            kept.append(node)
    return kept, aliases


def _flatten_sums(ordered: Sequence[BackwardNode], results: Iterable[str]) -> None:
    """A sum that only another sum reads becomes part of that one."""
    uses = Counter(name for node in ordered for name in node.proto.input)
    uses.update(results)
    sums: dict[str, NodeProto] = {}
    for node in ordered:
        proto = node.proto
        if proto.op_type != "Sum" or proto.domain:
            continue
        flat = [n for name in proto.input for n in (sums[name].input if uses[name] == 1 and name in sums else [name])]
        del proto.input[:]
        proto.input.extend(flat)
        sums[proto.output[0]] = proto


def _merge_equals(
    ordered: Iterable[BackwardNode], constants: Mapping[str, np.ndarray]
) -> tuple[list[BackwardNode], dict[str, str]]:
    digests = {name: _constant_digest(value) for name, value in constants.items()}
    twins: dict[str, str] = {}
    unique: dict[bytes, BackwardNode] = {}
    for node in ordered:
        proto = node.proto
        for index, name in enumerate(proto.input):
            proto.input[index] = twins.get(name, name)
        if proto.op_type == "Sum":
            parts = sorted(proto.input, key=lambda name: (digests.get(name) or _name_digest(name), name))
            del proto.input[:]
            proto.input.extend(parts)
        _tidy_attributes(proto)
        node.digest = _node_digest(proto, digests)
        twin = unique.setdefault(node.digest, node)
        twin.position = max(twin.position, node.position)
        for index, name in enumerate(proto.output):
            digests[name] = hashlib.sha1(node.digest + bytes([index])).digest()
            if twin is not node and name:
                twins[name] = twin.proto.output[index]
    return list(unique.values()), twins


def _tidy_attributes(proto: NodeProto) -> None:
    kept = sorted((a for a in proto.attribute if _NO_NEWS.get(a.name) != a.i), key=lambda a: a.name)
    del proto.attribute[:]
    proto.attribute.extend(kept)


def _constant_digest(value: np.ndarray) -> bytes:
    return hashlib.sha1(f"constant {value.dtype.str} {value.shape} ".encode() + value.tobytes()).digest()


def _name_digest(name: str) -> bytes:
    return hashlib.sha1(f"forward {name}".encode()).digest()


def _node_digest(proto: NodeProto, digests: Mapping[str, bytes]) -> bytes:
    made = hashlib.sha1(f"{proto.domain}::{proto.op_type} {[bool(name) for name in proto.output]}".encode())
    for attribute in proto.attribute:
        made.update(attribute.SerializeToString(deterministic=True))
    for name in proto.input:
        made.update(digests.get(name) or _name_digest(name))
    return made.digest()


def _needed(nodes: Sequence[BackwardNode], results: Iterable[str]) -> list[BackwardNode]:
    makers = {name: i for i, node in enumerate(nodes) for name in node.proto.output if name}
    pending = [makers[name] for name in results if name in makers]
    needed: set[int] = set()
    while pending:
        i = pending.pop()
        if i not in needed:
            needed.add(i)
            pending.extend(makers[name] for name in nodes[i].proto.input if name in makers)
    return [nodes[i] for i in sorted(needed)]


def _schedule(nodes: Sequence[BackwardNode]) -> list[BackwardNode]:
    """Backward of the last forward node first; what is ready at the same place goes by digest."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.proto.output if name}
    readers: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)
    for i, node in enumerate(nodes):
        for source in {makers[name] for name in node.proto.input if name in makers}:
            readers[source].append(i)
            missing[i] += 1
    ready = [(-n.position, n.digest, i) for i, n in enumerate(nodes) if not missing[i]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        i = heapq.heappop(ready)[2]
        ordered.append(nodes[i])
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (-nodes[reader].position, nodes[reader].digest, reader))
    return ordered


def _rename(
    scheduled: Iterable[BackwardNode], constants: Mapping[str, np.ndarray], results: Mapping[str, str], names: Names
) -> CanonicalBackward:
    finals: dict[str, str] = {}
    used: dict[str, np.ndarray] = {}
    counts: Counter[str] = Counter()
    nodes = []
    for node in scheduled:
        proto = node.proto
        stem = "gradient_sum" if node.position == AT_ONCE else f"{names.stem(node.position)}_backward"
        proto.name = f"{stem}_{counts[stem]}"
        proto.doc_string = BACKWARD
        counts[stem] += 1
        for index, name in enumerate(proto.input):
            if name in constants and name not in finals:
                finals[name] = names.fresh(f"backward_constant_{len(used)}")
                used[finals[name]] = constants[name]
            proto.input[index] = finals.get(name, name)
        for index, name in enumerate(proto.output):
            if name:
                finals[name] = names.fresh(names.wishes.get(name, f"{proto.name}_output_{index}"))
                proto.output[index] = finals[name]
        nodes.append(proto)
    return CanonicalBackward(nodes, used, {name: finals.get(at, at) for name, at in results.items()})
