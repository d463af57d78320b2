"""Errors of the compiler. Each message names the graph node where there is one."""

from __future__ import annotations


class CompileError(ValueError):
    """A program cannot be compiled. ``node`` is the name of the node at fault, empty where no single one is."""

    def __init__(self, message: str, node: str = ""):
        super().__init__(message)
        self.node = node


class UnsupportedOperatorError(CompileError):
    """The graph holds an operator, or an attribute of one, that the compiler does not have."""


class UnsupportedGradientError(CompileError):
    """A gradient was asked for through an operator whose gradient is not proven."""
