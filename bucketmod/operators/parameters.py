"""Attributes as operators declare them, and how their text forms are read.

A graph holds attributes as text, as MXNet writes them: ``"(1, 2)"``, ``"True"``, ``"1e-05"``, ``"None"``. Each kind of
parameter below turns its text into a Python value, or raises ValueError saying what it expected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REQUIRED = object()
MOST_EDGES = 100_000  # inputs or outputs of one node
FLOAT_TYPES = ("float16", "float32", "float64")
ELEMENT_TYPES = ("bfloat16", "bool", "float16", "float32", "float64", "int32", "int64", "int8", "uint8")


@dataclass(frozen=True)
class Param:
    """One attribute: ``kind`` says in words what ``read`` accepts; ``default`` is REQUIRED when there is none."""

    name: str
    kind: str
    read: Callable[[str], Any]
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def _read_int(text: str) -> int:
    return int(text[:-1] if text[-1:] in ("L", "l") else text)


def _read_bool(text: str) -> bool:
    if text in ("True", "true", "1"):
        return True
    if text in ("False", "false", "0"):
        return False
    raise ValueError(text)


def _read_optional_bool(text: str) -> bool:
    return False if text == "None" else _read_bool(text)


def _items(text: str) -> list[str]:
    body = text.strip()
    if body[:1] + body[-1:] in ("()", "[]"):
        body = body[1:-1]
    elif body[:1] in ("(", "["):
        raise ValueError(text)
    parts = [part.strip() for part in body.split(",")]
    return parts[:-1] if parts[-1] == "" else parts


def read_dims(text: str) -> tuple[int, ...]:
    return tuple([_read_int(part) for part in _items(text)])


def _read_optional_items(text: str) -> tuple[int | None, ...]:
    return tuple([None if part == "None" else _read_int(part) for part in _items(text)])


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "None" else read(text)


def integer(name: str, default: Any = REQUIRED, optional: bool = False) -> Param:
    """``optional``: the text ``None`` is accepted too."""
    if optional:
        return Param(name, "int or None", _or_none(_read_int), default)
    return Param(name, "int", _read_int, default)


def count(name: str, default: Any = REQUIRED, most: int = 2**31 - 1) -> Param:
    """A number of things, 1 or more. ``most`` keeps a bad file from asking for more outputs than memory holds."""

    def read(value: str) -> int:
        found = _read_int(value)
        if not 1 <= found <= most:
            raise ValueError(value)
        return found

    return Param(name, f"int from 1 to {most}", read, default)


def real(name: str, default: Any = REQUIRED, optional: bool = False) -> Param:
    if optional:
        return Param(name, "float or None", _or_none(float), default)
    return Param(name, "float", float, default)


def boolean(name: str, default: Any = REQUIRED, optional: bool = False) -> Param:
    """``optional``: the text ``None`` is accepted and means False."""
    return Param(name, "boolean", _read_optional_bool if optional else _read_bool, default)


def flag_or_none(name: str) -> Param:
    """A boolean, or None when it is not given or the text is ``None``."""
    return Param(name, "boolean or None", _or_none(_read_bool), None)


def dims(name: str, default: Any = REQUIRED, optional: bool = False) -> Param:
    """A tuple of ints; a single int stands for a tuple of one."""
    if optional:
        return Param(name, "tuple of int or None", _or_none(read_dims), default)
    return Param(name, "tuple of int", read_dims, default)


def lengths(name: str, default: Any = REQUIRED) -> Param:
    """A tuple of lengths, 0 or more each."""

    def read(value: str) -> tuple[int, ...]:
        found = read_dims(value)
        if min(found, default=0) < 0:
            raise ValueError(value)
        return found

    return Param(name, "tuple of lengths", read, default)


def optional_items(name: str, default: Any = REQUIRED) -> Param:
    """A tuple whose items are ints or None, as the begin and end of ``slice``."""
    return Param(name, "tuple of int or None items", _read_optional_items, default)


def text(name: str, default: Any = REQUIRED) -> Param:
    return Param(name, "text", str, default)


def choice(name: str, options: tuple[str, ...], default: Any = REQUIRED, optional: bool = False) -> Param:
    """One of ``options``; with ``optional`` also ``None``."""
    allowed = frozenset(options)

    def read(value: str) -> str | None:
        if optional and value == "None":
            return None
        if value not in allowed:
            raise ValueError(value)
        return value

    words = [*options, "None"] if optional else list(options)
    return Param(name, "one of " + ", ".join(words), read, default)


def dtype(name: str = "dtype", default: Any = "float32", options: tuple[str, ...] = ELEMENT_TYPES) -> Param:
    """An element type by name; None as the default means that of the input."""
    return choice(name, options, default, optional=default is None)
