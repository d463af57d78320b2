"""Attributes that every symbol made inside a ``with`` block receives."""

from __future__ import annotations

import threading
from typing import Any


class _Current(threading.local):
    def __init__(self) -> None:
        self.value = AttrScope()


class _ActiveScope:
    """``AttrScope.current``: the innermost active one, as older scripts ask for it."""

    def __get__(self, instance: object, owner: Any) -> AttrScope:
        return AttrScope._current.value


class AttrScope:
    """``with AttrScope(ctx_group="dev1", __lr_mult__="2"):`` adds these to variables and operators made inside.

    Nested scopes merge, the inner one wins. Raises ValueError for a value that is not text.
    """

    _current: _Current
    current = _ActiveScope()

    def __init__(self, **kwargs: str) -> None:
        _check_text(kwargs)
        self._attr: dict[str, str] = dict(kwargs)
        self._old: list[tuple[AttrScope, dict[str, str]]] = []

    def get(self, attr: dict[str, str] | None) -> dict[str, str]:
        """The scope's attributes with those of ``attr`` over them; a new dictionary."""
        merged = dict(self._attr)
        if attr:
            _check_text(attr)
            merged.update(attr)
        return merged

    def __enter__(self) -> AttrScope:
        outer = AttrScope._current.value
        self._old.append((outer, self._attr))
        self._attr = {**outer._attr, **self._attr}
        AttrScope._current.value = self
        return self

    def __exit__(self, *exc: Any) -> None:
        outer, self._attr = self._old.pop()
        AttrScope._current.value = outer


def _check_text(attributes: dict[str, str]) -> None:
    for key, value in attributes.items():
        if not isinstance(value, str):
            raise ValueError(f"attribute {key!r} must be text, not {type(value).__name__}: write {str(value)!r}")


AttrScope._current = _Current()


def current() -> AttrScope:
    """The innermost active scope of this thread."""
    return AttrScope._current.value
