"""Loads a recording script of tests/recorded as a module, so that tests run its cases with this package."""

import importlib.util
import json
import pathlib
from types import ModuleType
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / "recorded"


def recorder(topic: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"record_{topic}", FOLDER / f"record_{topic}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(topic: str) -> Any:
    return json.loads((FOLDER / f"{topic}.json").read_text())
