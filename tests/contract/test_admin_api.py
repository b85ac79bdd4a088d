"""Accounts, keys, usage and traces over HTTP, byte for byte where it matters, on a real database."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from admin_service import HELD, TOKEN, AdminService, admin_service, admin_settings
from command_line import run
from quartzite.config import ServerSettings
from serving import fake_service

ACME = {"id": 1, "name": "acme", "level": 2, "disabled": False, "monthly_tokens": 1000}
PATHS = [
    ("GET", "/accounts"),
    ("POST", "/accounts"),
    ("PATCH", "/accounts/acme"),
    ("GET", "/keys"),
    ("POST", "/keys/1/revoke"),
    ("GET", "/usage"),
    ("GET", "/traces/ti_1"),
    ("GET", "/models"),
    ("DELETE", "/models/m"),
]


@pytest.fixture
async def running_service(tmp_path: Path) -> AsyncIterator[AdminService]:
    """A service with the model `m` and an admin API."""
    async with admin_service(admin_settings(tmp_path, m="model")) as service:
        yield service


@pytest.fixture
async def acme(running_service: AdminService) -> AdminService:
    """The same with one account."""
    answer = await running_service.admin("POST", "/accounts", {"name": "acme", "level": 2, "monthly_tokens": 1000})
    assert (answer.status_code, answer.json()) == (201, ACME)
    return running_service


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_without_a_token_in_the_settings_there_is_no_admin_api(method: str, path: str) -> None:
    """Its paths are 404 as all unknown ones, whatever is sent."""
    async with fake_service() as service, service.client() as client:
        answer = await client.request(method, f"/admin{path}", headers=HELD)
    assert (answer.status_code, answer.content) == (404, b'"404 page not found"')


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("header", [None, TOKEN, "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}"])
async def test_without_the_token_nobody_gets_in(
    running_service: AdminService, method: str, path: str, header: str | None
) -> None:
    """A missing or wrong token is 401 and a bare string, before anything of the request is looked at."""
    headers = {"Authorization": header} if header else {}
    answer = await running_service.client.request(method, f"/admin{path}", content=b"no JSON", headers=headers)
    assert (answer.status_code, answer.content) == (401, b'"Admin token is invalid"')
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_admin_token_is_no_key_and_a_key_is_no_admin_token(acme: AdminService) -> None:
    """Neither opens what the other one does."""
    secret = (await acme.admin("POST", "/keys", {"account": "acme"})).json()["secret"]
    assert (await acme.client.get("/admin/accounts", headers={"Authorization": f"Bearer {secret}"})).status_code == 401


async def test_accounts_are_made_listed_shown_and_changed(acme: AdminService) -> None:
    """What is changed is what was given, and the same commands show the same."""
    assert (await acme.admin("GET", "/accounts")).json() == {"object": "list", "data": [ACME]}
    shown = await acme.admin("GET", "/accounts/acme")
    assert shown.json() == {**ACME, "month_tokens": 0, "keys": []}
    for change in ({"level": 5}, {"monthly_tokens": None}, {"disabled": True}, {}, {"disabled": False, "level": 0}):
        before = (await acme.admin("GET", "/accounts")).json()["data"][0]
        changed = await acme.admin("PATCH", "/accounts/acme", change)
        assert (changed.status_code, changed.json()) == (200, {**before, **change})


async def test_a_name_may_be_any_that_can_be_typed(running_service: AdminService) -> None:
    """Slashes, spaces and other letters stand in the path as they are escaped."""
    for name in ("a/b", "a/keys", "Größe 漢字", "100% of ?#"):
        assert (await running_service.admin("POST", "/accounts", {"name": name})).status_code == 201
        path = f"/accounts/{httpx.QueryParams({'': name})}".replace("=", "", 1).replace("+", "%20")
        assert (await running_service.admin("PATCH", path, {"level": 1})).json()["name"] == name


async def test_a_key_is_handed_over_once_and_lives_until_it_is_revoked(acme: AdminService) -> None:
    """The secret is in the answer that made it and in no other; rotation replaces it."""
    made = await acme.admin("POST", "/keys", {"account": "acme", "name": "ci", "expires_days": 30})
    key = made.json()
    secret = key.pop("secret")
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert re.fullmatch("sk-[a-z0-9]{48}", secret)
    assert (key["id"], key["account"], key["name"], key["state"]) == (1, "acme", "ci", "valid")
    assert key["begins"] == secret[:8]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", key["expires"])
    for path in ("/keys", "/keys?account=acme"):
        assert (await acme.admin("GET", path)).json()["data"] == [key]
    rotated = (await acme.admin("POST", "/keys/1/rotate", {"grace_hours": 1})).json()
    assert (rotated["id"], rotated["secret"] != secret) == (2, True)
    assert (await acme.admin("POST", "/keys/2/rotate")).status_code == 201
    revoked = await acme.admin("POST", "/keys/3/revoke")
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    states = [key["state"] for key in (await acme.admin("GET", "/accounts/acme")).json()["keys"]]
    assert states == ["valid", "revoked", "revoked"]
    assert secret not in (await acme.admin("GET", "/accounts/acme")).text


async def test_a_key_made_over_http_opens_the_service_and_its_use_is_summed_up(tmp_path: Path) -> None:
    """Two seconds later it is asked for; its requests are found by trace id, and in sums as JSON and CSV."""
    now = 0.0
    async with admin_service(admin_settings(tmp_path, m="model"), clock=lambda: now) as service:
        await service.admin("POST", "/accounts", {"name": "acme"})
        secret = (await service.admin("POST", "/keys", {"account": "acme", "name": "ci"})).json()["secret"]
        now = 2.0
        assert (await service.embed()).status_code == 401
        answer = await service.embed(key=secret, user="ann")
        tokens = answer.json()["usage"]["total_tokens"]
        trace = await service.admin("GET", f"/traces/{answer.headers['x-siliconcloud-trace-id']}")
        told = trace.json()
        assert (told["account"], told["key_id"], told["model"], told["user"]) == ("acme", 1, "m", "ann")
        assert (told["status"], told["tokens"], told["items"]) == (200, tokens, 1)
        assert told["total_ms"] >= told["engine_ms"] > 0
        sums = await service.admin("GET", "/usage?by=user")
        nobody = {"account": "", "user": "", "requests": 1, "failed": 1, "items": 0, "tokens": 0, "images": 0}
        ann = {"account": "acme", "user": "ann", "requests": 1, "failed": 0, "items": 1, "tokens": tokens, "images": 0}
        assert sums.json() == {"object": "list", "data": [nobody, ann]}
        table = await service.admin("GET", "/usage?by=account&format=csv&since=2026-01-01&until=9999-12-31")
        assert table.headers["content-type"] == "text/csv; charset=utf-8"
        assert table.text == f"account,requests,failed,items,tokens,images\n,1,1,0,0,0\nacme,1,0,1,{tokens},0\n"
        folder = str(tmp_path / "data")
        assert run("usage", "--by", "account", "--format", "csv", "--data-folder", folder).out == table.text
        assert (await service.admin("GET", "/accounts/acme")).json()["month_tokens"] == tokens
        assert (await service.admin("GET", "/usage?until=2020-01-01")).json()["data"] == []


FAULTS = {
    "unknown field": ("POST", "/accounts", {"name": "b", "lvl": 1}, 400, "lvl"),
    "missing field": ("POST", "/accounts", {}, 400, "name"),
    "wrong type": ("POST", "/accounts", {"name": "b", "level": "2"}, 400, "level"),
    "wrong value": ("POST", "/accounts", {"name": "b", "level": 6}, 400, "level"),
    "number too large": ("POST", "/accounts", {"name": "b", "monthly_tokens": 2**70}, 400, "monthly_tokens"),
    "unreadable name": ("POST", "/accounts", {"name": "\u0000"}, 400, "name"),
    "taken name": ("POST", "/accounts", {"name": "acme"}, 409, "name"),
    "no object": ("POST", "/accounts", ["acme"], 400, "body"),
    "unknown account": ("GET", "/accounts/nobody", None, 404, "account"),
    "account of no name": ("PATCH", "/accounts/%00", {"level": 1}, 404, "account"),
    "renaming": ("PATCH", "/accounts/acme", {"name": "b"}, 400, "name"),
    "null level": ("PATCH", "/accounts/acme", {"level": None}, 400, "level"),
    "key of nobody": ("POST", "/keys", {"account": "nobody"}, 404, "account"),
    "keys of nobody": ("GET", "/keys?account=nobody", None, 404, "account"),
    "key without account": ("POST", "/keys", {}, 400, "account"),
    "key without a name": ("POST", "/keys", {"account": "acme", "name": ""}, 400, "name"),
    "expired key": ("POST", "/keys", {"account": "acme", "expires_days": 0}, 400, "expires_days"),
    "endless expiry": ("POST", "/keys", {"account": "acme", "expires_days": 10**12}, 400, "expires_days"),
    "unknown key": ("POST", "/keys/77/revoke", None, 404, "id"),
    "impossible key": ("POST", f"/keys/{10**30}/rotate", None, 404, "id"),
    "body for a revocation": ("POST", "/keys/1/revoke", {"why": "x"}, 400, "why"),
    "endless grace": ("POST", "/keys/1/rotate", {"grace_hours": 1e300}, 400, "grace_hours"),
    "negative grace": ("POST", "/keys/1/rotate", {"grace_hours": -1}, 400, "grace_hours"),
    "unknown grouping": ("GET", "/usage?by=colour", None, 400, "by"),
    "unknown format": ("GET", "/usage?format=xml", None, 400, "format"),
    "no day": ("GET", "/usage?since=yesterday", None, 400, "since"),
    "unknown parameter": ("GET", "/usage?form=csv", None, 400, "form"),
    "parameter twice": ("GET", "/usage?by=day&by=key", None, 400, "by"),
    "unknown trace": ("GET", "/traces/ti_01M87TN0HHWKCS1JX02B45DJK1", None, 404, "trace_id"),
    "no trace id": ("GET", "/traces/%00%ff", None, 404, "trace_id"),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "pointer"), FAULTS.values(), ids=FAULTS.keys())
async def test_what_is_wrong_is_named(
    acme: AdminService, method: str, path: str, body: object, status: int, pointer: str
) -> None:
    """A failure is an object with a message and the place at fault; a 400 has the code of other wrong parameters."""
    answer = await acme.admin(method, path, body)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert list(told) == (["code", "message", "data"] if status == 400 else ["message", "data"])
    assert told["data"] == pointer
    assert told["message"]
    assert "`" not in pointer
    assert (await acme.admin("GET", "/accounts")).json()["data"] == [ACME]


async def test_a_field_given_twice_is_refused(acme: AdminService) -> None:
    """Which of the two was meant, nobody knows."""
    answer = await acme.client.patch("/admin/accounts/acme", content=b'{"level": 1, "level": 5}', headers=HELD)
    assert (answer.status_code, answer.json()["data"]) == (400, "level")


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"name": NaN}', b"[" * 5000, b'"' + b"x" * 70_000 + b'"'])
async def test_bytes_that_are_no_object_are_a_clean_400(acme: AdminService, content: bytes) -> None:
    """Broken, deep and long bodies alike."""
    answer = await acme.client.post("/admin/accounts", content=content, headers=HELD)
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (400, 20015, "body")


async def test_a_wrong_method_is_told_all_the_right_ones(acme: AdminService) -> None:
    """Several methods of a path are all named."""
    answer = await acme.admin("PUT", "/accounts")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await acme.admin("HEAD", "/accounts")).status_code == 200


async def test_a_host_that_lets_others_in_may_start_with_an_admin_token_and_lets_nobody_in_without_a_key(
    tmp_path: Path,
) -> None:
    """The first key can be made over HTTP; until then everyone is refused."""
    settings = msgspec.structs.replace(admin_settings(tmp_path, m="model"), server=ServerSettings(host="0.0.0.0"))
    async with admin_service(settings) as service:
        assert (await service.embed()).status_code == 401
        await service.admin("POST", "/accounts", {"name": "acme"})
        secret = (await service.admin("POST", "/keys", {"account": "acme"})).json()["secret"]
        assert (await service.embed(key=secret)).status_code == 200


def test_the_token_is_shown_nowhere() -> None:
    """Not by --show-settings, and not by a message about a token that cannot be."""
    shown = run("serve", "--admin-token", TOKEN, "--show-settings")
    assert (shown.code, TOKEN in shown.out) == (0, False)
    refused = run("serve", "--admin-token", f"{TOKEN} and more")
    assert (refused.code, "admin.token" in refused.err, TOKEN in refused.err) == (2, True, False)
