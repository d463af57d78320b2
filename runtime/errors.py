"""Errors of the runtime."""

from __future__ import annotations


class ArtifactError(RuntimeError):
    """An artifact cannot be used: damaged, foreign, or written for another version of the format."""


class IncompatibleCpuError(ArtifactError):
    """The artifact is intact, but this CPU lacks features that its code needs."""
