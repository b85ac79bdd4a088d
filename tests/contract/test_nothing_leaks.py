"""Keys, tokens, texts and users stand in no line of the log, whatever becomes of the requests they came in."""

import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from admin_service import TOKEN, admin_service, admin_settings
from fake_models import built
from quartzite.config import LogFormat
from quartzite.telemetry.logs import set_up_logging

MARKER = "markedword"


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest) -> Iterator[StringIO]:
    """All that a server logs and more, ours from DEBUG on, in one of both forms."""
    root, ours = logging.getLogger(), logging.getLogger("quartzite")
    before = root.handlers[:], root.level, ours.level
    stream, form = StringIO(), request.param
    as_form: LogFormat = form
    set_up_logging(as_form, stream)
    ours.setLevel(logging.DEBUG)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


async def test_no_key_token_text_or_user_is_logged(log: StringIO, tmp_path: Path) -> None:
    """Answers, refusals, broken bodies, failures of the engine and of the database: each has its line, without them."""
    now = 0.0
    async with admin_service(admin_settings(tmp_path, m="model"), clock=lambda: now) as service:
        await service.admin("POST", "/accounts", {"name": "acme"})
        key = (await service.admin("POST", "/keys", {"account": "acme"})).json()["secret"]
        text, now = f"{MARKER} and more", 2.0
        statuses = [
            (await service.embed(key=key, input=[text, {"text": text}], user=MARKER)).status_code,
            (await service.embed(key=key, input=text, dimensions=7)).status_code,
            (await service.embed(key=key, input=[text, ""])).status_code,
            (await service.embed(key=key, input=text * 2000)).status_code,
            (await service.embed(key=f"sk-{MARKER}", input=text)).status_code,
            (await service.client.get(f"/v1/models?key={MARKER}", headers={"Authorization": MARKER})).status_code,
            (
                await service.client.post("/v1/embeddings", content=f'{{"{MARKER}'.encode(), headers=_of(key))
            ).status_code,
            (await service.client.get("/admin/accounts", headers=_of(MARKER))).status_code,
            (await service.admin("POST", "/keys", {"account": "acme", MARKER: MARKER})).status_code,
        ]
        working, built[0].embed = built[0].embed, _failing  # type: ignore[method-assign,assignment]
        statuses.append((await service.embed(key=key, input=text)).status_code)
        built[0].embed = working  # type: ignore[method-assign]
        for file in (tmp_path / "data").glob("*.db*"):
            file.write_bytes(b"rubbish" * 1000)
        statuses.append((await service.embed(key=key, input=text)).status_code)
    assert statuses == [200, 400, 400, 400, 401, 401, 400, 401, 400, 500, 503]
    logged = log.getvalue()
    assert logged.count("trace_id") >= len(statuses)
    assert "provoked" in logged
    for secret in (MARKER, key, TOKEN):
        assert secret not in logged


def _of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def _failing(_batch: object, _spread: bool = False) -> object:
    raise RuntimeError("provoked failure")
