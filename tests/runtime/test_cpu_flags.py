"""Which CPU features this process may use."""

import pytest

from bucketmod.runtime import cpu


@pytest.fixture
def flags(monkeypatch):
    """``flags(listed, permitted)``: what ``host_flags`` says of a CPU with these features."""

    def host_flags(listed, permitted):
        monkeypatch.setattr(cpu, "_listed_flags", lambda: frozenset(listed))
        monkeypatch.setattr(cpu, "_request_tiles", lambda: permitted)
        return cpu.host_flags.__wrapped__()

    return host_flags


def test_tile_registers_count_where_linux_grants_them(flags):
    assert flags(["avx2", "amx_tile", "amx_bf16"], True) == {"avx2", "amx_tile", "amx_bf16"}


def test_tile_registers_that_linux_keeps_back_are_no_feature(flags):
    assert flags(["avx2", "amx_tile", "amx_bf16"], False) == {"avx2"}


def test_linux_is_not_asked_on_cpus_without_tile_registers(monkeypatch):
    monkeypatch.setattr(cpu, "_listed_flags", lambda: frozenset(["avx2"]))
    monkeypatch.setattr(cpu, "_request_tiles", lambda: pytest.fail("asked"))
    assert cpu.host_flags.__wrapped__() == {"avx2"}


def test_tile_registers_are_no_feature_of_other_machines(monkeypatch):
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    assert cpu._request_tiles() is False
