"""A service with an admin API, over fake models and a database of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

import fake_models
from quartzite.bootstrap import Service, running, web_app
from quartzite.config import AdminSettings, Settings, StorageSettings

TOKEN = "the-admin-token"
HELD = {"Authorization": f"Bearer {TOKEN}"}


def admin_settings(tmp_path: Path, **models: str) -> Settings:
    """Return settings with an admin token, a data folder without a database, and `models`: names and folders."""
    settings = fake_models.settings_of(tmp_path, **models)
    return msgspec.structs.replace(
        settings, admin=AdminSettings(token=TOKEN), storage=StorageSettings(data_folder=str(tmp_path / "data"))
    )


class AdminService:
    """A running service and a client of it in process."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self.service = service
        self.client = client

    async def admin(self, method: str, path: str, body: object = None, **options: Any) -> httpx.Response:
        """Ask the admin API for `path` with the token; `body` is sent as JSON."""
        content = None if body is None else msgspec.json.encode(body)
        return await self.client.request(method, f"/admin{path}", content=content, headers=HELD, **options)

    async def embed(self, model: str = "m", key: str | None = None, **fields: object) -> httpx.Response:
        """Ask for one embedding."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": model, "input": "a text", **fields}
        return await self.client.post("/v1/embeddings", json=body, headers=headers)


@asynccontextmanager
async def admin_service(settings: Settings, **options: Any) -> AsyncIterator[AdminService]:
    """Run a service of `settings`; `options` are those of `running`."""
    fake_models.built.clear()
    async with running(settings, fake_models.SOURCE, guarded=True, **options) as service:
        transport = httpx.ASGITransport(web_app(service, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield AdminService(service, client)
