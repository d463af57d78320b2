"""``mx.registry``: classes by lower-case name, one registry a base class, with ``register``, ``alias``, ``create``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Base = TypeVar("Base")
Klass = TypeVar("Klass", bound=type)

_classes: dict[type, dict[str, type]] = {}  # by base class, so that all who ask for one base share its names


class Registry(Generic[Base]):
    """Subclasses of ``base`` by name; ``kind`` names them in messages and is the key of a dict configuration."""

    def __init__(self, base: type[Base], kind: str) -> None:
        self.base = base
        self.kind = kind
        self.classes: dict[str, type[Base]] = _classes.setdefault(base, {})

    def register(self, klass: Klass, name: str | None = None) -> Klass:
        """Adds ``klass`` under ``name`` (its own name by default); warns when the name was taken. A class decorator.

        AssertionError unless ``klass`` is a subclass of the base.
        """
        related = issubclass(klass, self.base)
        assert related, f"{klass!r} is no subclass of {self.base.__name__}, so it is no {self.kind}"
        key = (name or klass.__name__).lower()
        if key in self.classes and self.classes[key] is not klass:
            old = self.classes[key]
            warnings.warn(
                f"{self.kind} {key!r} is now {klass.__module__}.{klass.__name__}, "
                f"no longer {old.__module__}.{old.__name__}",
                UserWarning,
                stacklevel=2,
            )
        self.classes[key] = klass
        return klass

    def alias(self, *aliases: str) -> Callable[[Klass], Klass]:
        """A class decorator that adds further names."""

        def add(klass: Klass) -> Klass:
            for name in aliases:
                self.register(klass, name)
            return klass

        return add

    def create(self, *args: Any, **kwargs: Any) -> Base:
        """An instance from a name and constructor arguments, a dict, JSON text, or an instance (returned as it is).

        JSON text is ``["name", {arguments}]`` or an object with the key ``kind``. AssertionError for unknown names.
        """
        given, rest = (args[0], args[1:]) if args else (kwargs.pop(self.kind), ())
        if isinstance(given, self.base):
            assert not rest and not kwargs, f"{given!r} is an instance already; further arguments have no use"
            return given
        if isinstance(given, dict):
            return self.create(**given)
        assert isinstance(given, str), f"{self.kind} must be a name, JSON text or an instance, got {type(given)}"
        if given.startswith("[") or given.startswith("{"):
            assert not rest and not kwargs, f"arguments beside the JSON text {given!r} have no use"
            decoded = json.loads(given)
            return self.create(**decoded) if isinstance(decoded, dict) else self.create(decoded[0], **decoded[1])
        assert given.lower() in self.classes, (
            f"there is no {self.kind} {given!r}; known are {', '.join(sorted(self.classes))} (add others with register)"
        )
        return self.classes[given.lower()](*rest, **kwargs)


def get_registry(base_class: type[Base]) -> dict[str, type[Base]]:
    """A copy of the registry of ``base_class``: class by lower-case name."""
    return dict(_classes.get(base_class, {}))


def get_register_func(base_class: type[Base], nickname: str) -> Callable[..., Any]:
    """``register(klass, name=None)`` for subclasses of ``base_class``; see :meth:`Registry.register`.

    ``nickname``: what such a class is called in messages, and the key of its name in a dict configuration.
    """
    return Registry(base_class, nickname).register


def get_alias_func(base_class: type[Base], nickname: str) -> Callable[..., Any]:
    """``alias(*names)``, a class decorator that adds names; see :meth:`Registry.alias`."""
    return Registry(base_class, nickname).alias


def get_create_func(base_class: type[Base], nickname: str) -> Callable[..., Base]:
    """``create(name, ...)`` of instances of registered classes; see :meth:`Registry.create`."""
    return Registry(base_class, nickname).create
