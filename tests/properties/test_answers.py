"""Any request over HTTP: an answer of the documented form with a trace id, never a fault, never silence."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving import CLASSIC, CUTTABLE, fake_service, listening

FIELDS = ["model", "input", "encoding_format", "dimensions", "truncate", "user"]
CODES = {20012, 20015, 20042}
GOOD = {"model": CUTTABLE, "input": ["a text", {"text": "another"}], "encoding_format": "float", "dimensions": 4}
FORMS = [
    *(CLASSIC, CUTTABLE, "float", "base64", "left", "right", "text", "\ud800", "\x00", "", "\n", 2, 4, 0, -1, 2.0),
    *(
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        {},
        [5, 6],
        [[5]],
        [2**31],
        [[2**64, -1]],
        ["\ud800"],
    ),
    *({"text": "a"}, {"image": "https://example.com/a.jpg"}, ["a"] * 33, [[5], "a"], "word " * 200),
]
values = st.recursive(
    st.sampled_from(FORMS) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "image", "x"]), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), values, max_size=4).map(
    lambda fields: json.dumps({"model": CLASSIC, "input": "text"} | fields).encode()
)
pieces = st.binary(max_size=4) | st.sampled_from(
    [b'"', b"\\", b"{", b"[[", b"\xff", b"\x00", b',"model":1', b"1e999", b"NaN"]
)
headers = st.dictionaries(
    st.sampled_from(["content-type", "content-encoding", "x-request-timeout-ms", "accept", "traceparent", "origin"]),
    st.sampled_from(["", "application/json", "text/plain", "gzip", "identity", "60000", "-1", "*/*", ";", '"', "0"]),
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of a service on a real socket, which runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()

    async def start() -> httpx.URL:
        service = await stack.enter_async_context(fake_service())
        return await stack.enter_async_context(listening(service.app, timeout_graceful_shutdown=1))

    url = asyncio.run_coroutine_threadsafe(start(), loop).result()
    with httpx.Client(base_url=url, timeout=20) as calling:
        yield calling
    asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def check(answer: httpx.Response) -> None:
    """Fail unless `answer` is one of the two that a request without limits, keys and haste can get."""
    assert re.fullmatch("ti_[0-9A-HJKMNP-TV-Z]{26}", answer.headers["x-siliconcloud-trace-id"])
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    told = json.loads(answer.content)
    if answer.status_code == 400:
        assert list(told) == ["code", "message", "data"]
        assert told["code"] in CODES
        assert isinstance(told["data"], str)
        assert len(told["message"]) < 1000
    else:
        assert answer.status_code == 200
        assert list(told) == ["object", "data", "model", "usage"]
        assert [item["index"] for item in told["data"]] == list(range(len(told["data"])))
        for item in told["data"]:
            if isinstance(item["embedding"], list):
                assert abs(np.linalg.norm(item["embedding"]) - 1) < 1e-3


def _post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"} | headers)


@given(objects)
def test_any_json_is_answered(client: httpx.Client, body: bytes) -> None:
    """Whatever the fields hold, the answer is embeddings or a refusal."""
    check(_post(client, body))


@given(st.lists(st.tuples(st.integers(0, 130), st.integers(0, 6), pieces), min_size=1, max_size=4))
def test_a_mutated_body_is_answered(client: httpx.Client, changes: list[tuple[int, int, bytes]]) -> None:
    """A good body with pieces taken out, put in, or put in their place is embedded or refused."""
    body = json.dumps(GOOD).encode()
    for place, taken, put in changes:
        body = body[:place] + put + body[place + taken :]
    check(_post(client, body))


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(client: httpx.Client, body: bytes) -> None:
    """Bytes without sense are refused."""
    answer = _post(client, body)
    check(answer)
    assert answer.status_code == 400


@given(headers)
def test_any_headers_are_answered(client: httpx.Client, said: dict[str, str]) -> None:
    """Headers that are read, or not, with values that make sense, or none."""
    check(client.post("/v1/embeddings", content=json.dumps(GOOD).encode(), headers=said))


@example(b".", "GET")
@example(b"..", "GET")
@given(st.binary(max_size=20), st.sampled_from(["GET", "HEAD", "PUT", "OPTIONS"]))
def test_any_path_is_answered(client: httpx.Client, path: bytes, method: str) -> None:
    """A path of any bytes is known or unknown; neither the router nor the log stumbles."""
    quoted = quote(path).replace(".", "%2E")  # a client takes `.` and `..` out of a path before it is sent
    answer = client.request(method, f"/v1/models/{quoted}")
    assert answer.status_code in {204, 404, 405}
    assert answer.headers["x-siliconcloud-trace-id"].startswith("ti_")
