"""GET /openapi.json and GET /docs say what is served: held against the code, the API document, and the network."""

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import orjson
import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Route

from admin_service import admin_service, admin_settings
from quartzite.config import ModelSettings, RequestSettings
from quartzite.domain import Withdrawal
from quartzite.errors import WIRE
from quartzite.web.admin_bodies import AccountChanges, NewAccount, NewKey, Nothing, Rotation
from quartzite.web.examples import EXAMPLES
from quartzite.web.failures import render
from quartzite.web.limits import LIMIT_HEADERS
from quartzite.web.openapi import NOT_WHEN_EMBEDDING, openapi
from quartzite.web.schemas import EmbeddingsBody
from quartzite.web.withdrawal import withdrawal_headers
from serving import CLASSIC, CUTTABLE, FakeService, fake_service

LAW = Path(__file__).parents[1] / "fixtures" / "api" / "siliconflow-embeddings.yaml"


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Any:
    """The document as served."""
    answer = await client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    return answer.json()


@pytest.fixture(scope="module")
def law() -> Any:
    """The API document that the service follows, as its makers wrote it."""
    return yaml.safe_load(LAW.read_text(encoding="utf-8"))


def operation(document: Any) -> Any:
    return document["paths"]["/v1/embeddings"]["post"]


def parts(value: object) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from parts(inner)


def validator(document: Any, schema: object) -> jsonschema_rs.Draft4Validator:
    return jsonschema_rs.Draft4Validator({**document, "allOf": [schema]}, validate_formats=False)


def test_the_law_is_at_hand(law: Any) -> None:
    """The fixture is the whole document, with the oddities that its makers left in it."""
    assert law["components"]["schemas"]["EmbeddingsResponse"]["properties"]["object"]["enum"] == [["list"]]


async def test_every_path_is_described(document: Any, service: FakeService) -> None:
    """No route is left out, and none is made up."""
    assert _served(service.app) == _described(document)


async def test_the_admin_api_is_described_where_there_is_one(tmp_path: Path) -> None:
    """With an admin token its paths are described too, with the fields that the code reads."""
    async with admin_service(admin_settings(tmp_path, m="model")) as service:
        described = (await service.client.get("/openapi.json")).json()
        assert {path for path, _ in _described(described) if path.startswith("/admin")}
        assert _served(service.client._transport.app) == _described(described)  # type: ignore[attr-defined]
        assert "/admin/accounts" in _Page((await service.client.get("/docs")).text).text
    for path, method, kind in [
        ("/admin/accounts", "post", NewAccount),
        ("/admin/accounts/{name}", "patch", AccountChanges),
        ("/admin/keys", "post", NewKey),
        ("/admin/keys/{id}/rotate", "post", Rotation),
        ("/admin/keys/{id}/revoke", "post", Nothing),
        ("/admin/models", "post", ModelSettings),
    ]:
        schema = described["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        fields = msgspec.structs.fields(kind)
        assert set(schema["properties"]) == {field.name for field in fields}
        assert set(schema.get("required", [])) == {field.name for field in fields if field.required}


def _served(app: Starlette) -> set[tuple[str, str]]:
    return {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


def _described(document: Any) -> set[tuple[str, str]]:
    return {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_every_field_is_described(document: Any) -> None:
    """The fields of a request are those that the code reads."""
    fields = document["components"]["schemas"]["EmbeddingsRequest"]["properties"]
    assert set(fields) == {field.name for field in msgspec.structs.fields(EmbeddingsBody)}


def test_every_failure_is_described(document: Any) -> None:
    """Each failure of a request for embeddings is an example of its status, and fits the schema of that status."""
    responses = operation(document)["responses"]
    for failure in EXAMPLES:
        if isinstance(failure, NOT_WHEN_EMBEDDING):
            continue
        content = responses[str(WIRE[type(failure)].status)]["content"]["application/json"]
        body = orjson.loads(bytes(render(failure).body))
        assert {"value": body} == content["examples"][type(failure).__name__]
        assert validator(document, content["schema"]).is_valid(body)
        assert not validator(document, content["schema"]).is_valid({"error": body})
    assert set(responses) - {"200"} == {str(row.status) for row in WIRE.values()} - {
        "405",
        "409",
        "422",
        "499",
    }  # of others


def test_every_header_of_an_embedding_is_described(document: Any) -> None:
    """What tells of limits and of a model's end is described at each status, in words and in form."""
    told = Withdrawal(date(2026, 12, 1), date(2027, 3, 1), "https://example.org/")
    withdrawn = {name.decode(): value.decode() for name, value in withdrawal_headers(told)}
    for response in operation(document)["responses"].values():
        described = {name.lower(): header for name, header in response["headers"].items()}
        assert {*withdrawn, *LIMIT_HEADERS, "x-siliconcloud-trace-id"} <= set(described)
    for name, value in withdrawn.items():
        assert validator(document, {"$ref": f"{described[name]['$ref']}/schema"}).is_valid(value)
        assert not validator(document, {"$ref": f"{described[name]['$ref']}/schema"}).is_valid(0)


def test_every_reference_leads_somewhere(document: Any) -> None:
    """Schemas and headers that are referred to exist."""
    for part in parts(document):
        place = document
        for step in part.get("$ref", "#").split("/")[1:]:
            place = place[step]
        assert place


async def test_answers_fit_their_schema(document: Any, client: httpx.AsyncClient) -> None:
    """What is served under each path is what the document says, headers too."""
    for path in ["/v1/models", "/health", "/ready", "/openapi.json"]:
        response = document["paths"][path]["get"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        answer = await client.get(path)
        validator(document, schema).validate(answer.json())
        assert set(map(str.lower, response["headers"])) <= set(answer.headers)
    schema = operation(document)["responses"]["200"]["content"]["application/json"]["schema"]
    for encoding in ("float", "base64"):
        body = {"model": CLASSIC, "input": ["a", "b"], "encoding_format": encoding}
        validator(document, schema).validate((await client.post("/v1/embeddings", json=body)).json())


def test_examples_are_requests_that_fit(document: Any) -> None:
    """Each example of a request is one."""
    content = operation(document)["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        validator(document, content["schema"]).validate(example["value"])


def test_limits_are_those_of_the_settings() -> None:
    """The most items, and whether token arrays are taken, are told as they are set."""
    described = openapi(RequestSettings(max_inputs_per_request=7, token_arrays="reject"), [CLASSIC])
    forms = described["components"]["schemas"]["EmbeddingsRequest"]["properties"]["input"]["oneOf"]
    assert [form["maxItems"] for form in forms if "maxItems" in form] == [7]
    assert "TokenArray" not in str(forms)


async def test_the_model_of_the_examples_is_one_that_is_served(client: httpx.AsyncClient, service: FakeService) -> None:
    """Models come and go; with none left there is still an example."""
    for _ in range(3):
        served = next(iter(service.pipeline.models), "sentence-transformers/all-MiniLM-L6-v2")
        examples = operation((await client.get("/openapi.json")).json())["requestBody"]["content"]["application/json"]
        assert examples["examples"]["text"]["value"]["model"] == served
        service.pipeline.models.pop(served, None)  # type: ignore[attr-defined]


def test_the_law_is_kept(document: Any, law: Any) -> None:
    """Every field, status and header that the API document has is described here with the same type."""
    ours, theirs = document["components"]["schemas"], law["components"]["schemas"]
    for name in ("EmbeddingsClassicRequest", "EmbeddingsVLRequest"):
        assert set(theirs[name]["required"]) == set(ours["EmbeddingsRequest"]["required"])
        for field, schema in theirs[name]["properties"].items():
            mine = ours["EmbeddingsRequest"]["properties"][field]
            assert mine.get("type") == schema.get("type")
            assert set(schema.get("enum", [])) <= set(mine.get("enum", []))
    answer, wanted = ours["EmbeddingsResponse"], theirs["EmbeddingsResponse"]
    assert set(answer["required"]) == set(wanted["required"])
    assert set(answer["properties"]["usage"]["required"]) == set(wanted["properties"]["usage"]["required"])
    responses = operation(document)["responses"]
    assert set(law["paths"]["/embeddings"]["post"]["responses"]) <= set(responses)
    assert all("x-siliconcloud-trace-id" in response["headers"] for response in responses.values())


class _Page(HTMLParser):
    """Notes what a page refers to, its headings and its style, and that every element ends."""

    VOID = frozenset({"meta", "li"})  # an `li` may go without its end

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.anchors |= {value or "" for name, value in attrs if name == "id"}
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_shows_the_whole_document(document: Any, client: httpx.AsyncClient) -> None:
    """Each path, field, status and example stands on the page, and a command that works where the page was read."""
    page = _Page((await client.get("/docs")).text)
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            assert f"{method}-{path}" in page.anchors
            assert all(status in page.text for status in described["responses"])
    assert all(field in page.text for field in document["components"]["schemas"]["EmbeddingsRequest"]["properties"])
    command = [
        "curl http://service/v1/embeddings",
        "-H 'Content-Type: application/json'",
        f'-d \'{{"model": "{CLASSIC}"',
    ]
    assert " \\\n  ".join(command) in page.text
    assert "Request timed out after 60 s." in page.text


async def test_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    """It has no program, links to itself and to the document, and its policy forbids everything but its own style."""
    answer = await client.get("/docs")
    page = _Page(answer.text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert set(page.links) == {"openapi.json", *[f"#{anchor}" for anchor in page.anchors]}
    style = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert "url(" not in style
    assert "@import" not in style
    assert " style=" not in answer.text


@pytest.mark.parametrize("host", ["<script>alert(1)</script>", "x' onload='y", "[", "", "a b"])
async def test_an_odd_host_header_does_no_harm(client: httpx.AsyncClient, host: str) -> None:
    """What a client says of the server's name is shown as text, or not at all."""
    answer = await client.get("/docs", headers={"Host": host})
    assert answer.status_code == 200
    assert set(_Page(answer.text).tags) <= set(_Page((await client.get("/docs")).text).tags)
    assert "<script" not in answer.text


async def test_a_model_s_name_is_no_markup() -> None:
    """Names come from settings and folders; on the page they are text."""
    async with fake_service() as service, service.client() as client:
        service.pipeline.models["<b>'\"</b>"] = service.pipeline.models.pop(CLASSIC)  # type: ignore[attr-defined]
        service.pipeline.models.pop(CUTTABLE)  # type: ignore[attr-defined]
        page = _Page((await client.get("/docs")).text)
    assert "<b>'\\''" in page.text
