"""Models are loaded and unloaded while the service runs, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from admin_service import AdminService, admin_service, admin_settings
from command_line import run
from fake_models import built, let_go, write_model
from quartzite.config import ModelSettings

SERVED = {"state": "healthy", "streams": 1, "lost_streams": 0}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[AdminService]:
    """A service with the model `m` and an admin API; `let_go` lets folders called `slow` load."""
    for folder in ("other", "slow", "refused", "broken"):
        write_model(tmp_path / folder)
    let_go.clear()
    async with admin_service(admin_settings(tmp_path, m="model")) as running:
        try:
            yield running
        finally:
            let_go.set()


async def models(service: AdminService) -> list[str]:
    """Return the names that `GET /v1/models` lists."""
    return [model["id"] for model in (await service.client.get("/v1/models")).json()["data"]]


async def health_that_tells_of(service: AdminService, state: str) -> httpx.Response:
    """Return the first answer of `GET /health` in which a model has that state."""
    async with asyncio.timeout(60):  # if the state never comes
        while state not in (health := await service.client.get("/health")).text:  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0)
    return health


async def metrics(service: AdminService) -> str:
    return (await service.client.get("/metrics")).text


async def test_a_loaded_model_is_served_at_once(service: AdminService, tmp_path: Path) -> None:
    """The answer says what was loaded; the model is listed, answers, is healthy, and has its metrics."""
    loaded = await service.admin("POST", "/models", {"name": "org/new", "folder": str(tmp_path / "other")})
    assert loaded.status_code == 201
    told = loaded.json()
    assert told.pop("load_s") >= 0
    assert told == {
        "name": "org/new",
        "state": "healthy",
        "dimensions": 32,
        "max_tokens": 512,
        "precision": built[1].arithmetic,
        "folder": str(tmp_path / "other"),
        "level": 0,
        "deprecated": None,
        "sunset": None,
    }
    assert await models(service) == ["m", "org/new"]
    assert (await service.embed("org/new")).status_code == 200
    assert (await service.client.get("/v1/models/org/new")).status_code == 200
    assert (await service.client.get("/health")).json()["models"] == {"m": SERVED, "org/new": SERVED}
    assert (await service.client.get("/ready")).json() == {"status": "ready", "models": {"m": True, "org/new": True}}
    shown = [model["name"] for model in (await service.admin("GET", "/models")).json()["data"]]
    assert shown == ["m", "org/new"]
    assert (await service.admin("GET", "/models/org/new")).json()["state"] == "healthy"
    assert 'quartzite_model_state{model="org/new",state="healthy"} 1.0' in await metrics(service)


async def test_requests_under_way_are_answered_while_their_model_is_withdrawn(service: AdminService) -> None:
    """New ones are told that there is no such model; unloading ends when the last old one has its answer."""
    engine = built[0]
    engine.hold()
    asked = asyncio.create_task(service.embed())
    await engine.entered.wait()
    unloading = asyncio.create_task(service.admin("DELETE", "/models/m"))
    await health_that_tells_of(service, "unloading")
    answer = await service.embed()
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (400, 20012, "model")
    assert answer.json()["message"].startswith("Model does not exist. Please check it carefully.")
    assert (await service.admin("DELETE", "/models/m")).json() == {
        "message": "the model 'm' is unloading",
        "data": "name",
    }
    assert (await service.admin("GET", "/models")).json()["data"] == [{"name": "m", "state": "unloading"}]
    assert not engine.closed
    engine.release()
    assert (await asked).status_code == 200
    done = await unloading
    assert (done.status_code, done.json()) == (200, {"name": "m", "state": "unloaded"})
    assert engine.closed


async def test_the_last_model_may_go_and_come_back(service: AdminService) -> None:
    """Without a model the service is alive and not ready; what is not said on loading is as the settings have it."""
    assert (await service.admin("DELETE", "/models/m")).status_code == 200
    assert await models(service) == []
    assert (await service.client.get("/ready")).json() == {"status": "unavailable", "models": {}}
    assert (await service.client.get("/health")).status_code == 200
    assert 'model="m"' not in "".join(line for line in (await metrics(service)).splitlines() if "_state{" in line)
    assert (await service.admin("POST", "/models", {"name": "m"})).status_code == 201
    assert (await service.client.get("/ready")).status_code == 200
    assert (await service.embed()).status_code == 200


async def test_names_that_share_an_engine_keep_it_to_the_last(service: AdminService, tmp_path: Path) -> None:
    """The engine ends with its last name, and until then is counted under the first that is left."""
    assert (
        await service.admin("POST", "/models", {"name": "Pro/m", "folder": str(tmp_path / "model")})
    ).status_code == 201
    assert len(built) == 1
    assert (await service.admin("DELETE", "/models/m")).status_code == 200
    assert not built[0].closed
    assert (await service.embed("Pro/m")).status_code == 200
    page = await metrics(service)
    assert 'quartzite_micro_batch_items_count{model="Pro/m"} 1.0' in page
    assert 'quartzite_engine_streams{model="Pro/m"} 1.0' in page
    assert 'quartzite_engine_streams{model="m"}' not in page
    assert (await service.admin("DELETE", "/models/Pro/m")).status_code == 200
    assert built[0].closed


async def test_while_a_model_loads_the_others_answer_and_its_state_is_told(
    service: AdminService, tmp_path: Path
) -> None:
    """Loading blocks nothing; the same name cannot be loaded twice at once, and is not served before it is whole."""
    body = {"name": "s", "folder": str(tmp_path / "slow")}
    loading = asyncio.create_task(service.admin("POST", "/models", body))
    health = await health_that_tells_of(service, "loading")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert health.json()["models"] == {"m": SERVED, "s": {"state": "loading", "streams": 0, "lost_streams": 0}}
    assert (await service.client.get("/ready")).json() == {"status": "ready", "models": {"m": True, "s": False}}
    assert 'quartzite_model_state{model="s",state="loading"} 1.0' in await metrics(service)
    assert (await service.embed()).status_code == 200
    assert (await service.embed("s")).json()["code"] == 20012
    for method, path, sent in (("POST", "/models", body), ("DELETE", "/models/s", None)):
        refused = await service.admin(method, path, sent)
        assert (refused.status_code, refused.json()) == (409, {"message": "the model 's' is loading", "data": "name"})
    let_go.set()
    assert (await loading).status_code == 201
    assert (await service.embed("s")).status_code == 200
    assert (await service.admin("POST", "/models", body)).json()["message"] == "the model 's' is served already"


@pytest.mark.parametrize(
    ("folder", "status", "told"),
    [
        ("refused", 422, "the model 'x' cannot be served: no such graph"),
        ("absent", 422, "does not exist; a model is a folder"),
        ("untokenised", 422, "tokenizer.json"),
        ("broken", 500, "Request failed: Unknown error"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_told_and_leaves_the_others_alone(
    service: AdminService, tmp_path: Path, folder: str, status: int, told: str
) -> None:
    """The operator's message reaches the caller; nothing is left of the attempt, and the name can be used again."""
    if folder == "untokenised":
        write_model(tmp_path / folder)
        (tmp_path / folder / "tokenizer.json").write_text("no JSON", encoding="utf-8")
    answer = await service.admin("POST", "/models", {"name": "x", "folder": str(tmp_path / folder)})
    assert (answer.status_code, told in answer.json()["message"]) == (status, True), answer.text
    assert await models(service) == ["m"]
    assert (await service.client.get("/health")).json() == {"status": "ok", "models": {"m": SERVED}}
    assert [engine.closed for engine in built[1:]] in ([], [True])
    assert (await service.embed()).status_code == 200
    assert 'model="x"' not in await metrics(service)
    body = {"name": "x", "folder": str(tmp_path / "other")}
    assert (await service.admin("POST", "/models", body)).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 1}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": msgspec.Raw(rb'"half of a pair \ud800"'), "folder": "."}, "name"),
        ({"name": "x", "folder": ""}, "folder"),
        ({"name": "x", "path": "/"}, "path"),
        ({"name": "x", "precision": "fp8"}, "precision"),
        ({"name": "x", "level": 9}, "level"),
        ({"name": "x", "sunset": "soon"}, "sunset"),
        ({"name": "x", "deprecated": "2027-01-02", "sunset": "2027-01-01"}, "sunset"),
        ({"name": "x", "deprecation_link": "https://example.org"}, "deprecation_link"),
    ],
)
async def test_a_wrong_body_is_told_by_its_field(service: AdminService, body: object, pointer: str) -> None:
    """It is 400, and nothing is loaded."""
    answer = await service.admin("POST", "/models", body)
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (400, 20015, pointer)
    assert len(built) == 1


async def test_a_model_that_is_not_there_is_404(service: AdminService) -> None:
    """Neither shown nor unloaded."""
    for method in ("GET", "DELETE"):
        answer = await service.admin(method, "/models/no/such")
        assert (answer.status_code, answer.json()["message"]) == (404, "no model 'no/such' is served")


async def test_a_model_keeps_its_level_however_it_came(tmp_path: Path) -> None:
    """One that needs a level is 403 to accounts below it, also when it was loaded later."""
    settings = admin_settings(tmp_path, m="model")
    high = ModelSettings(name="high", folder=str(tmp_path / "model"), level=3)
    settings = msgspec.structs.replace(settings, models=(*settings.models, high))
    assert run("accounts", "create", "acme", "--level", "2", "--data-folder", settings.storage.data_folder).code == 0
    key = run("keys", "create", "acme", "--data-folder", settings.storage.data_folder).out.strip()
    async with admin_service(settings) as service:
        assert (await service.admin("DELETE", "/models/high")).status_code == 200
        assert (await service.admin("POST", "/models", {"name": "high"})).json()["level"] == 3
        body = {"name": "later", "folder": str(tmp_path / "model"), "level": 5}
        assert (await service.admin("POST", "/models", body)).json()["level"] == 5
        statuses = [(await service.embed(name, key)).status_code for name in ("m", "high", "later")]
    assert statuses == [200, 403, 403]


async def test_a_service_that_ends_loads_and_unloads_nothing(service: AdminService, tmp_path: Path) -> None:
    """It says that it is stopping."""
    service.service.pipeline.drain()
    body = {"name": "x", "folder": str(tmp_path / "other")}
    assert (await service.admin("POST", "/models", body)).status_code == 503
    assert (await service.admin("DELETE", "/models/m")).status_code == 503


WITHDRAWALS = [
    ({"deprecated": "2026-12-01"}, {"deprecation": "@1796083200"}),
    ({"sunset": "2027-03-01"}, {"sunset": "Mon, 01 Mar 2027 00:00:00 GMT"}),
    (
        {"deprecated": "2026-12-01", "sunset": "2027-03-01", "deprecation_link": "https://example.org/new?a=b"},
        {
            "deprecation": "@1796083200",
            "sunset": "Mon, 01 Mar 2027 00:00:00 GMT",
            "link": '<https://example.org/new?a=b>; rel="deprecation sunset"',
        },
    ),
]


@pytest.mark.parametrize(("marks", "headers"), WITHDRAWALS)
async def test_answers_of_a_model_that_will_be_withdrawn_say_when(
    service: AdminService, tmp_path: Path, marks: dict[str, str], headers: dict[str, str]
) -> None:
    """Deprecation, Sunset and Link stand on its answers, failures too, and on those of no other model."""
    body = {"name": "old", "folder": str(tmp_path / "model"), **marks}
    assert (await service.admin("POST", "/models", body)).status_code == 201
    marked = [
        await service.embed("old"),
        await service.embed("old", dimensions=3),
        await service.client.get("/v1/models/old"),
    ]
    assert [answer.status_code for answer in marked] == [200, 400, 200]
    for answer in marked:
        assert {
            name: answer.headers[name] for name in ("deprecation", "sunset", "link") if name in answer.headers
        } == headers
    for answer in (await service.embed(), await service.embed("none"), await service.client.get("/v1/models")):
        assert not {"deprecation", "sunset", "link"} & set(answer.headers)
