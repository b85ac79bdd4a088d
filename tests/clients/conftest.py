"""What the tests of real clients stand on; they run in an environment of their own, `make test-clients`."""

import importlib.util
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

_LITELLM = importlib.util.find_spec("litellm")
collect_ignore_glob = [] if _LITELLM else ["test_*.py"]

if _LITELLM and _LITELLM.origin:
    # No client may report home, trace or look for prices; the vocabulary that LangChain downloads is in a package.
    os.environ.update(
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_TELEMETRY="False",
        LANGSMITH_TRACING="false",
        TIKTOKEN_CACHE_DIR=str(Path(_LITELLM.origin).parent / "litellm_core_utils" / "tokenizers"),
    )


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects to anything but this machine fails the test."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "::1", "localhost"}, address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture
async def keyed_url() -> AsyncIterator[httpx.URL]:
    """The address of a service that asks for the key KEY."""
    from calling import KEY

    from quartzite.admission.authenticate import Authenticator, Principal
    from quartzite.admission.gate import KeyedGate
    from quartzite.admission.limits import Limits
    from quartzite.admission.windows import LocalWindows
    from serving import fake_service, listening

    gate = KeyedGate(Authenticator([KEY], Principal()), Limits((), LocalWindows(time.monotonic)), {})
    async with fake_service(gate=gate) as service, listening(service.app) as address:
        yield address
