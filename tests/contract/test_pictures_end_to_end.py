"""Texts and pictures from request to vector, through the real engine: a small Qwen3-VL folder of random weights."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from picture_hosts import answer, picture_host
from quartzite.bootstrap import running, web_app
from quartzite.config import EngineSettings, ModelSettings, Settings
from seeing import CHAT, VOCABULARY, data_uri, png
from synthetic.blueprint import scaled
from synthetic.folder import make_folder
from synthetic.golden_pictures import SIZES
from synthetic.known import KNOWN

MODEL = "Qwen/Qwen3-VL-Embedding-2B"
MIXED = [
    "a red circle",
    {"text": "a red circle"},
    {"image": data_uri(png(100, 80))},
    {"image": data_uri(png(33, 31, 5))},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of true layout, small, with a tokenizer that knows the frame."""
    blueprint = replace(scaled(KNOWN[MODEL], SIZES | {"vocabulary": VOCABULARY}), seed=21)
    made = tmp_path_factory.mktemp("qwen3-vl")
    make_folder(made, blueprint, CHAT)
    return made


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a whole service with that model under its name in the catalogue."""
    model = ModelSettings(name=MODEL, folder=str(folder))
    settings = Settings(models=(model,), engine=EngineSettings(precision="f32"))
    async with running(settings) as service:
        transport = httpx.ASGITransport(web_app(service, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


async def vectors(client: httpx.AsyncClient, value: object) -> np.ndarray:
    told = await client.post("/v1/embeddings", json={"model": MODEL, "input": value})
    assert told.status_code == 200, told.text
    return np.array([row["embedding"] for row in told.json()["data"]], np.float32)


async def test_items_of_a_mixed_list_have_the_vectors_they_have_alone(client: httpx.AsyncClient) -> None:
    """Two spellings of a text agree, pictures differ from texts and from each other, and company changes nothing."""
    together = await vectors(client, MIXED)
    alone = np.concatenate([await vectors(client, item) for item in MIXED])
    cosines = together @ alone.T
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
    np.testing.assert_allclose(cosines[0, 1], 1, atol=1e-6)
    others = cosines[np.triu_indices(4, 1)][1:]
    assert others.max() < 0.999


CONFIGURED = """
[server]
port = 0
[engine]
precision = "f32"
[images]
allowed_hosts = ["127.0.0.1:{port}"]
[admin]
token = "the-admin-token"
[storage]
data_folder = "{data}"
[[models]]
name = "{model}"
folder = "{folder}"
"""


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `quartzite serve`, run as a user does."""
    command = (sys.executable, "-m", "quartzite", "serve", "--config", config)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            greeting = ""
            while "curl" not in greeting:
                greeting += (await process.stdout.readline()).decode()
        url = re.findall(r"http://[\d.:]+", greeting)[0]
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            yield client
    finally:
        process.kill()
        await process.communicate()


async def test_a_server_fetches_a_picture_and_records_it(folder: Path, tmp_path: Path) -> None:
    """From a host on its list, by the program as it is run: the vector of the file, its tokens, and the ledger."""
    config = tmp_path / "quartzite.toml"
    async with picture_host(answer(png(100, 80))) as host:
        config.write_text(CONFIGURED.format(port=host.port, data=tmp_path / "data", model=MODEL, folder=folder))
        async with serving(config) as client:
            body = {"model": MODEL, "input": [{"image": host.url("127.0.0.1")}, {"image": data_uri(png(100, 80))}, "a"]}
            told = await client.post("/v1/embeddings", json=body)
            assert told.status_code == 200, told.text
            fetched, sent, _ = (np.array(row["embedding"]) for row in told.json()["data"])
            refused = await client.post("/v1/embeddings", json={**body, "input": {"image": "http://127.0.0.1:1/a.png"}})
            assert (refused.status_code, refused.json()["code"]) == (400, 20040)
            held = {"Authorization": "Bearer the-admin-token"}
            (used,) = (await client.get("/admin/usage?by=model", headers=held)).json()["data"]
    np.testing.assert_allclose(fetched @ sent, 1, atol=1e-6)
    tokens = told.json()["usage"]["total_tokens"]
    assert used == {"model": MODEL, "requests": 2, "failed": 1, "items": 4, "tokens": tokens, "images": 3}
    assert len(host.visits) == 1
