"""Targets and the machine they are for."""

import pytest

from bucketmod.compiler.target import host_level, parse_target
from bucketmod.runtime import cpu


@pytest.fixture
def host(monkeypatch):
    """``host(*flags)``: this machine has these CPU features."""

    def become(*flags):
        monkeypatch.setattr(cpu, "host_flags", lambda: frozenset(flags))
        host_level.cache_clear()

    yield become
    host_level.cache_clear()


def flags_of(level):
    return parse_target(f"cpu:{level}").cpu.flags


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4", "x86-64-v4-amx"])
def test_cpu_is_the_best_level_of_this_machine(host, level):
    host(*flags_of(level), "sse4_2")
    assert parse_target("cpu").name == f"cpu:{level}"


def test_a_target_that_cannot_run_here_says_what_is_missing(host):
    host(*flags_of("x86-64-v4"))
    parse_target("cpu:x86-64-v3").check_host()
    with pytest.raises(ValueError, match=r"cpu:x86-64-v4-amx cannot run here: this machine has no amx_bf16, amx_tile"):
        parse_target("cpu:x86-64-v4-amx").check_host()
