"""What all tests share: one artifact cache a test run, and the target that programs are compiled for."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_VARIABLE = "BUCKETMOD_CACHE"
# Folders whose tests need a CPU target, and why: skipped in a run for CUDA, as are tests marked ``cpu_only(reason)``.
_RUNTIME = "the runtime loads artifacts for CPUs only"
_CPU_ONLY = {
    "executor": _RUNTIME,
    "kernels": "these are the forms of kernels for CPUs; the portable forms are built for CUDA by tests/compiler",
    "module": _RUNTIME,
    "runtime": _RUNTIME,
    "scripts": _RUNTIME,
    "training": _RUNTIME,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", default="cpu", help="what programs are compiled for: cpu, cpu:x86-64-v3, cuda:sm_90")


def pytest_configure(config: pytest.Config) -> None:
    """A cache that lasts as long as the run, shared by its worker processes; one that is set already is used as it is
    (``scripts/test`` sets one that stays, so that a second run compiles nothing)."""
    if _VARIABLE not in os.environ:
        config.stash[_made] = os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="bucketmod-tests-")
    config.addinivalue_line("markers", "cpu_only(reason): needs a CPU target; skipped in a run for CUDA")
    target = config.getoption("--target")
    if target.startswith("cpu"):
        os.environ["BUCKETMOD_TARGET"] = target


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    target = config.getoption("--target")
    if target.startswith("cpu"):
        return
    for item in items:
        marker = item.get_closest_marker("cpu_only")
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        reason = marker.args[0] if marker is not None else _CPU_ONLY.get(folder)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"not for {target}: {reason}"))


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_made, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ[_VARIABLE]


_made = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> str:
    """The target of this run, ``cpu`` unless ``--target`` says otherwise."""
    return request.config.getoption("--target")


@pytest.fixture(scope="session")
def artifact_cache() -> Path:
    """Directory of the artifact cache of this run."""
    return Path(os.environ[_VARIABLE])
