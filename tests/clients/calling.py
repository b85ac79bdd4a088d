"""Calls for comparison, services that refuse, and the snippets of docs/clients.md, run as they stand there."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from quartzite.admission.gate import Caller, OpenGate, Permit
from quartzite.errors import RequestFailure
from serving import CLASSIC, fake_service, listening

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "clients" / "node"
TEXTS = ["first text", "second text"]
"""What the snippets embed."""
KEY = "sk-right"
"""The key that opens the service of `keyed_url`."""

_DOCUMENTED = {"http://127.0.0.1:8000": "{url}", "sentence-transformers/all-MiniLM-L6-v2": CLASSIC}


async def raw(url: httpx.URL, items: Sequence[object] = TEXTS, **fields: object) -> list[list[float]]:
    """Ask for the vector of each item over plain HTTP: one by one, so that no order can be wrong."""
    async with httpx.AsyncClient(base_url=url) as client:
        bodies = ({"model": CLASSIC, "input": [item], **fields} for item in items)
        answers = [await client.post("/v1/embeddings", json=body) for body in bodies]
    return exact(answer.raise_for_status().json()["data"][0]["embedding"] for answer in answers)


def exact(vectors: Iterable[object]) -> list[list[float]]:
    """Return `vectors` as the numbers of their float32, which may be compared with `==`."""
    return [np.asarray(vector, np.float32).astype(float).tolist() for vector in vectors]


def named(value: object) -> str | None:
    """Return how a parameter is called in the name of its test; None leaves it to pytest."""
    return type(value).__name__ if isinstance(value, RequestFailure) else None


class Refusing(OpenGate):
    """Refuses as many requests as it has failures, then lets all in; `asked_at` are the moments of all, in seconds."""

    def __init__(self, failures: Iterable[RequestFailure]) -> None:
        self._failures = list(failures)
        self.asked_at: list[float] = []

    async def admit(self, caller: Caller) -> Permit:
        """Refuse, or let in."""
        self.asked_at.append(time.perf_counter())
        if self._failures:
            raise self._failures.pop(0)
        return await super().admit(caller)


@asynccontextmanager
async def refusing(*failures: RequestFailure) -> AsyncIterator[tuple[httpx.URL, Refusing]]:
    """Serve on a real socket behind a gate that refuses with `failures` first."""
    gate = Refusing(failures)
    async with fake_service(gate=gate) as service, listening(service.app) as url:
        yield url, gate


async def run_python(heading: str, url: httpx.URL) -> Any:
    """Run the Python of docs/clients.md under `heading`, on a thread; return what it leaves in `vectors`."""
    names: dict[str, Any] = {}
    code = compile(_snippet(heading, "python", url), f"docs/clients.md, {heading}", "exec")
    await asyncio.to_thread(exec, code, names)
    return names["vectors"]


async def run_documented_node(heading: str, url: httpx.URL, shown: str) -> Any:
    """Run the JavaScript of docs/clients.md under `heading`; return the value of the expression `shown` after it."""
    return await run_node(_snippet(heading, "js", url), shown)


async def run_node(code: str, shown: str) -> Any:
    """Run a JavaScript module; return the value of the expression `shown` after it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", "--input-type=module", cwd=NODE, stdin=pipe, stdout=pipe, stderr=pipe
    )
    said, complained = await process.communicate(f"{code}\nconsole.log(JSON.stringify({shown}))".encode())
    assert process.returncode == 0, complained.decode()
    return json.loads(said)


def _snippet(heading: str, language: str, url: httpx.URL) -> str:
    """Return the first snippet in `language` under `heading`, turned to the service at `url` and its model."""
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    snippets = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    code: str = snippets[0]
    for documented, tested in _DOCUMENTED.items():
        assert documented in code
        code = code.replace(documented, tested.format(url=url))
    return code
