"""Fixtures of the unit tests."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_folders import model_files
from stub_hub import NAME, Repository, StubHub


@pytest.fixture(scope="session")
def _one_session() -> Iterator[None]:
    """The hub's library keeps its connections; new TLS settings for every test would take most of the time."""
    from huggingface_hub import close_session

    yield
    close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _one_session: None) -> Iterator[StubHub]:
    """A hub that holds one model, and a library that knows of no other hub, token or cache."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy", "hf_token", "hugging_face_hub_token"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for file in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH", "AGENT_HARNESSES_PATH"):
        monkeypatch.setattr(constants, file, str(tmp_path / "home" / file))
    monkeypatch.setattr(socket.socket, "connect", _loopback_only(socket.socket.connect))
    with StubHub() as running:
        files = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        running.repositories[NAME] = Repository(model_files())
        yield running


def _loopback_only(connect: Any) -> Any:
    def checked(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", f"a connection to {address}"
        connect(self, address)

    return checked
