"""Compiled optimizer kernels: one artifact for each target, found or compiled like the programs of a bucket."""

from __future__ import annotations

import hashlib
import json

from bucketmod.binding.artifacts import obtain
from bucketmod.compiler import versions
from bucketmod.compiler.service import CompileRequest
from bucketmod.compiler.target import parse_target
from bucketmod.runtime.update import UpdateKernels

_DIGEST_FORMAT = 1


def update_request(target: str = "cpu") -> CompileRequest:
    """The request for the optimizer kernels of ``target``; ValueError for an unknown target."""
    target = parse_target(target).name
    identity = {"format": _DIGEST_FORMAT, "mode": "update", "target": target, "compiler": versions()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return CompileRequest(b"", "update", (), target, "optimizer kernels", digest, {"model": "optimizer"})


def update_kernels(target: str = "cpu") -> UpdateKernels:
    """The optimizer kernels, loaded. Each call gives a new object, which keeps the arrays it is bound to.

    Raises MissingArtifactError, CompilationError and IncompatibleCpuError as ``obtain`` does.
    """
    return UpdateKernels(obtain(update_request(target)))
