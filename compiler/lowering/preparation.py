"""What follows from parameters alone: inference computes it once for each set of parameters, not in every step.

Packed weights are most of it. What is prepared lives outside of the workspace, and has a name that tells how it was
computed, so that programs of other buckets that need the same share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import ir, tirx

from bucketmod.compiler.lowering.calls import CallList, KernelCall, Storage, View

# Bytes written for each byte read: more would be kept than a broadcast is worth.
_MOST_GROWTH = 2


@dataclass
class Preparation:
    """``calls`` compute ``digests``, storages by the digest of their computation; ``rest``: the other calls."""

    calls: list[KernelCall] = field(default_factory=list)
    rest: list[KernelCall] = field(default_factory=list)
    digests: dict[Storage, str] = field(default_factory=dict)


def find_preparation(
    calls: CallList,
    functions: Mapping[ir.GlobalVar, tirx.PrimFunc],
    parameters: Mapping[Storage, str],
    outputs: set[Storage],
) -> Preparation:
    """Cuts the calls of a program for inference in two. ``parameters``: what stays from step to step, by name;
    ``outputs``: what must be in the workspace.

    What the rest reads of the first part becomes a storage of kind "prepared".
    """
    found = Preparation()
    known = {storage: f"parameter {name}" for storage, name in parameters.items()}
    for call in calls.calls:
        if _is_prepared(call, known, outputs):
            found.calls.append(call)
            digest = _function_digest(functions[call.function])
            sources = [f"{_origin(view.storage, known)} {view.offset}" for view in call.reads]
            for index, view in enumerate(call.writes):
                known[view.storage] = _sha256("\n".join([digest, str(index), *sources]))
        else:
            found.rest.append(call)
    read = {view.storage for call in found.rest for view in call.reads}
    for call in found.calls:
        for view in call.writes:
            if view.storage in read:
                view.storage.kind = "prepared"
                found.digests[view.storage] = known[view.storage]
    return found


def _is_prepared(call: KernelCall, known: Mapping[Storage, str], outputs: set[Storage]) -> bool:
    if not all(view.storage in known or view.storage.kind == "constant" for view in call.reads):
        return False
    growth = _nbytes(call.writes) / max(1, _nbytes(call.reads))
    return growth <= _MOST_GROWTH and not any(view.storage in outputs for view in call.writes)


def _nbytes(views: list[View]) -> int:
    return sum(view.storage.nbytes for view in views)


def _origin(storage: Storage, known: Mapping[Storage, str]) -> str:
    if storage.value is not None:
        return f"constant {hashlib.sha256(storage.value.tobytes()).hexdigest()}"
    return known[storage]


def _function_digest(function: tirx.PrimFunc) -> str:
    return _sha256(function.script(show_meta=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
