"""Names of nodes that the user did not name: a counter for each kind of operator."""

from __future__ import annotations

import threading
from typing import Any


class _Current(threading.local):
    def __init__(self) -> None:
        self.value = NameManager()


class _ActiveManager:
    """``NameManager.current``: the innermost active one, as older scripts ask for it."""

    def __get__(self, instance: object, owner: Any) -> NameManager:
        return NameManager._current.value


class NameManager:
    """Hands out ``<hint><n>``, counting each hint from 0. ``with NameManager():`` starts the counting afresh.

    A bucketing module calls ``sym_gen`` inside a fresh one, so that automatic names repeat from bucket to bucket.
    """

    _current: _Current
    current = _ActiveManager()

    def __init__(self) -> None:
        self._counter: dict[str, int] = {}
        self._old: list[NameManager] = []

    def get(self, name: str | None, hint: str) -> str:
        """``name`` itself when there is one, else the next automatic name for ``hint``."""
        if name:
            return name
        count = self._counter.get(hint, 0)
        self._counter[hint] = count + 1
        return f"{hint}{count}"

    def __enter__(self) -> NameManager:
        self._old.append(NameManager._current.value)
        NameManager._current.value = self
        return self

    def __exit__(self, *exc: Any) -> None:
        NameManager._current.value = self._old.pop()


class Prefix(NameManager):
    """A name manager that puts ``prefix`` before every operator's name, given or automatic."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def get(self, name: str | None, hint: str) -> str:
        return self._prefix + super().get(name, hint)


NameManager._current = _Current()


def current() -> NameManager:
    """The innermost active manager of this thread."""
    return NameManager._current.value
