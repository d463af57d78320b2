"""Runs a piece of Python in a process of its own, which can import the shared cases, and returns what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "recorded"


def run_python(source: str, *arguments: str, **environment: str) -> Any:
    """The last line of standard output, read as JSON. AssertionError with the process's errors when it fails."""
    paths = [str(RECORDED), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
    )  # fmt: skip
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stdout}\n{run.stderr}"
    return json.loads(run.stdout.splitlines()[-1])
