"""Fixtures of the tests of faults."""

from typing import Any

import anyio
import pytest


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that a connection was tried to; none is made."""
    tried: list[tuple[str, int]] = []

    async def connect(remote_host: str, remote_port: int, **_: Any) -> None:
        tried.append((remote_host, remote_port))
        raise OSError("no network in tests")

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    return tried
