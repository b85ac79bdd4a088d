"""Every failure as a client sees it, byte for byte, and the table behind it."""

import httpx
import orjson
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from quartzite.errors import (
    WIRE,
    AccountDisabled,
    AllowanceSpent,
    ClientGone,
    Conflict,
    DatabaseDown,
    DeadlineExceeded,
    EngineFault,
    HeadersTooLarge,
    InvalidAdminToken,
    InvalidImage,
    InvalidKey,
    InvalidParameter,
    InvalidToken,
    LevelTooLow,
    MethodRefused,
    ModelNotLoaded,
    NoSuchRecord,
    NotArrived,
    NotRecorded,
    Overloaded,
    PathNotFound,
    RateLimited,
    RequestFailure,
    Stopping,
    TooManyItems,
    UnknownModel,
)
from quartzite.web.failures import refuse_method, render
from serving import CLASSIC, CUTTABLE, MAX_TOKENS

GENERIC = "The parameter is invalid. Please check again. "
UNKNOWN = (
    "Model does not exist. Please check it carefully. No model '{}' is served here; "
    "GET /v1/models lists those that are."
)


def _bad_request(detail: str, pointer: str, code: int = 20015) -> bytes:
    return f'{{"code":{code},"message":{orjson.dumps(detail).decode()},"data":"{pointer}"}}'.encode()


MODEL = "`model` must be a string that is not empty."
ENCODING = "`encoding_format` must be `float` or `base64`."
DIMENSIONS = "`dimensions` must be an integer of at least 1."
TRUNCATE = "`truncate` must be `left` or `right`."
FIELDS: dict[str, tuple[str, object, str]] = {
    "model missing": ("model", None, "`model` is required."),
    "model empty": ("model", "", MODEL),
    "model no string": ("model", ["m"], MODEL),
    "input missing": ("input", None, "`input` is required."),
    "encoding_format other": ("encoding_format", "int8", ENCODING),
    "encoding_format no string": ("encoding_format", {}, ENCODING),
    "dimensions text": ("dimensions", "4", DIMENSIONS),
    "dimensions fraction": ("dimensions", 4.0, DIMENSIONS),
    "dimensions boolean": ("dimensions", True, DIMENSIONS),
    "dimensions zero": ("dimensions", 0, DIMENSIONS),
    "truncate other": ("truncate", "middle", TRUNCATE),
    "truncate boolean": ("truncate", True, TRUNCATE),
    "user no string": ("user", 7, "`user` must be a string."),
}


@pytest.mark.parametrize(("field", "value", "detail"), FIELDS.values(), ids=FIELDS.keys())
async def test_a_bad_field_is_named(client: httpx.AsyncClient, field: str, value: object, detail: str) -> None:
    """Each field of the request has its own 400, with the field in message and data, in the document's key order."""
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "text", field: value})
    assert answer.status_code == 400
    assert answer.content == _bad_request(GENERIC + detail, field)


BODIES = {
    "empty": b"",
    "cut short": b'{"model": "m"',
    "a word": b"hello",
    "an array": b"[]",
    "a string": b'"text"',
    "null": b"null",
    "NaN": b'{"model": NaN}',
    "infinity": b'{"dimensions": Infinity}',
    "a number beyond all ranges": b'{"dimensions": 1e999}',
    "something behind the object": b'{"model": "m"} {}',
    "a byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "a control character": b'{"input": "\x00"}',
    "another charset": '{"input": "naïve"}'.encode("latin-1"),
    "UTF-16": '{"input": "text"}'.encode("utf-16"),
    "half a surrogate pair": b'{"input": "\\ud800 and more text"}',
    "compressed": b"\x1f\x8b\x08\x00rest",
    "nested deeply": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested deeply in a field nobody reads": b'{"extra": ' + b'{"a":' * 100_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_is_no_json_object_is_a_clean_400(client: httpx.AsyncClient, body: bytes) -> None:
    """Whatever is wrong with the bytes, the answer is 400 / 20015 and points to the body."""
    answer = await client.post("/v1/embeddings", content=body)
    assert answer.status_code == 400
    told = orjson.loads(answer.content)
    assert list(told) == ["code", "message", "data"]
    assert (told["code"], told["data"]) == (20015, "body")
    assert told["message"].startswith(GENERIC + "the body ")


ITEMS: dict[str, tuple[object, str]] = {
    "an empty string": ("", "input"),
    "an empty string in a list": (["a", "b", ""], "input[2]"),
    "an empty list": ([], "input"),
    "a number in a list": (["a", 1.5], "input[1]"),
    "an image": ([{"image": "https://example.com/a.jpg"}], "input[0].image"),
    "an unknown kind of content": (["a", {"video": "https://example.com/a.mp4"}], "input[1]"),
    "a text too long": (["a", "word " * MAX_TOKENS], "input[1]"),
    "an id outside the vocabulary": ([[5], [5, 99_999]], "input[1]"),
}


@pytest.mark.parametrize(("value", "pointer"), ITEMS.values(), ids=ITEMS.keys())
async def test_the_item_at_fault_is_named(client: httpx.AsyncClient, value: object, pointer: str) -> None:
    """A bad item fails the request with 400 / 20015; message and data say which one."""
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": value})
    assert answer.status_code == 400
    told = orjson.loads(answer.content)
    assert list(told) == ["code", "message", "data"]
    assert (told["code"], told["data"]) == (20015, pointer)
    assert f"`{pointer}`" in told["message"]


@pytest.mark.parametrize("said", ["", "0", "000", "-5", "+5", "1.5", "1e3", "10 000", "soon", "١٠"])
async def test_a_bad_timeout_header_is_named(client: httpx.AsyncClient, said: str) -> None:
    """A time that is no whole number of milliseconds is 400 / 20015 with the name of the header."""
    headers = {"x-request-timeout-ms": said.encode()}
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"}, headers=headers)
    assert answer.status_code == 400
    assert answer.content == _bad_request(
        GENERIC + "the header `x-request-timeout-ms` must be a whole number of milliseconds, 1 or more, such as 1500.",
        "x-request-timeout-ms",
    )


TWICE = {
    "a field": (b'{"model": "m", "input": "a", "model": "m"}', "`model` is given twice.", "model"),
    "with the same value": (b'{"input": "a", "input": "a", "model": "m"}', "`input` is given twice.", "input"),
    "spelt otherwise": (rb'{"model": "m", "input": "a", "m\u006fdel": "m"}', "`model` is given twice.", "model"),
    "in content": (b'{"model": "m", "input": {"text": "a", "text": "b"}}', "`input` has `text` twice.", "input"),
    "in content and in the request": (
        b'{"model": "m", "instruction": "a", "input": {"text": "b", "instruction": "a", "instruction": "b"}}',
        "`input` has `instruction` twice.",
        "input",
    ),
    "in one of a list": (
        b'{"model": "m", "input": ["text", {"text": "a"}, {"text": "a", "text": "b"}]}',
        "`input[2]` has `text` twice.",
        "input[2]",
    ),
}


@pytest.mark.parametrize(("body", "detail", "pointer"), TWICE.values(), ids=TWICE.keys())
async def test_a_field_given_twice_is_named(client: httpx.AsyncClient, body: bytes, detail: str, pointer: str) -> None:
    """Nobody can say which of the two was meant: 400 / 20015 with the name of the field, or of the item."""
    answer = await client.post("/v1/embeddings", content=body)
    assert answer.status_code == 400
    assert answer.content == _bad_request(GENERIC + detail, pointer)


OTHER_TYPES = [
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "text/json", "json", ""),
    *(
        "application/jsonl",
        "application/+json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
    ),
]


@pytest.mark.parametrize("said", OTHER_TYPES)
async def test_another_content_type_is_told_what_to_send(client: httpx.AsyncClient, said: str) -> None:
    """A body that is said to be something else is not read: 400 / 20015 with the header that would be right."""
    headers = {"content-type": said}
    answer = await client.post("/v1/embeddings", content=b'{"model": "no/such"}', headers=headers)
    assert answer.status_code == 400
    assert answer.content == _bad_request(
        GENERIC + "the body must be JSON in UTF-8: send the header `Content-Type: application/json`, "
        f"not {said or 'an empty one'}.",
        "content-type",
    )


@pytest.mark.parametrize("said", ["gzip", "br", "deflate", "zstd", "identity, gzip"])
async def test_a_compressed_body_is_refused(client: httpx.AsyncClient, said: str) -> None:
    """Nothing is unpacked here, so that a small body cannot become a large one."""
    headers = {"content-type": "application/json", "content-encoding": said}
    answer = await client.post("/v1/embeddings", content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 400
    assert answer.content == _bad_request(
        GENERIC + f"the body must not be compressed: leave out the header `Content-Encoding: {said}`.",
        "content-encoding",
    )


async def test_a_body_said_to_be_as_it_is_is_taken(client: httpx.AsyncClient) -> None:
    """`identity` says that nothing is compressed."""
    headers = {"content-encoding": "identity"}
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": "a"}, headers=headers)
    assert answer.status_code == 200


async def test_a_long_header_is_not_repeated_whole(client: httpx.AsyncClient) -> None:
    """What a client sends comes back cut."""
    answer = await client.post("/v1/embeddings", content=b"{}", headers={"content-type": "x" * 10_000})
    assert len(answer.content) < 400


async def test_too_many_items_are_counted(client: httpx.AsyncClient) -> None:
    """A list longer than allowed is 400 / 20042 with the service's own words."""
    answer = await client.post("/v1/embeddings", json={"model": CLASSIC, "input": ["a"] * 33})
    assert answer.status_code == 400
    assert answer.content == _bad_request("input batch size 33 > maximum allowed batch size 32", "input", 20042)


async def test_an_unknown_model_is_named_and_the_way_to_the_list_shown(client: httpx.AsyncClient) -> None:
    """A model that is not served is 400 / 20012, even with a `dimensions` that nobody offers."""
    answer = await client.post("/v1/embeddings", json={"model": "no/such", "input": "a", "dimensions": 3})
    assert answer.status_code == 400
    assert answer.content == _bad_request(UNKNOWN.format("no/such"), "model", 20012)


@pytest.mark.parametrize(("model", "dimensions"), [(CLASSIC, 8), (CUTTABLE, 3)])
async def test_dimensions_a_model_does_not_offer_are_refused(
    client: httpx.AsyncClient, model: str, dimensions: int
) -> None:
    """A model without the field refuses even its native size; a model with it refuses sizes off its list."""
    answer = await client.post("/v1/embeddings", json={"model": model, "input": "a", "dimensions": dimensions})
    assert answer.status_code == 400
    told = answer.json()
    assert (told["code"], told["data"]) == (20015, "dimensions")
    assert model in told["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings/", "/v1/embeddings/embeddings", "/embeddings"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_a_bare_string(client: httpx.AsyncClient, method: str, path: str) -> None:
    """The 404 is the document's JSON string, also for a path with a slash too many."""
    answer = await client.request(method, path)
    assert answer.status_code == 404
    assert answer.content == b'"404 page not found"'


@pytest.mark.parametrize(("path", "allowed"), [("/v1/embeddings", "OPTIONS, POST"), ("/health", "GET, HEAD, OPTIONS")])
async def test_options_tells_the_methods(client: httpx.AsyncClient, path: str, allowed: str) -> None:
    """OPTIONS is answered with the methods of the path, and nothing else."""
    answer = await client.options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "HEAD", "FROB"])
async def test_a_method_that_no_path_has_is_refused(client: httpx.AsyncClient, method: str) -> None:
    """Methods that HTTP knows, and in process also one that it does not, are 405 on a known path, 404 elsewhere."""
    assert (await client.request(method, "/v1/embeddings")).status_code == 405
    assert (await client.request(method, "/v1/none")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/embeddings", "POST"), ("POST", "/v1/models", "GET, HEAD"), ("DELETE", "/health", "GET, HEAD")],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """A 405 lists the methods in its Allow header and in its text."""
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.content == f'"405 method not allowed, use {allowed}"'.encode()


ONE_OF_EACH: dict[RequestFailure, tuple[int, bytes]] = {
    InvalidParameter("what", "input[3]"): (400, _bad_request(GENERIC + "what", "input[3]")),
    InvalidImage("`input[3].image` what.", "input[3].image"): (
        400,
        _bad_request(
            "Image url should be a valid url or should like data:image/TYPE;base64,YOUR-BASE64-CONTENT. "
            "`input[3].image` what.",
            "input[3].image",
            20040,
        ),
    ),
    TooManyItems(33, 32): (400, _bad_request("input batch size 33 > maximum allowed batch size 32", "input", 20042)),
    UnknownModel("é"): (400, _bad_request(UNKNOWN.format("é"), "model", 20012)),
    InvalidToken(): (401, b'"Invalid token"'),
    InvalidKey(): (401, b'"Api key is invalid"'),
    AccountDisabled(): (403, b'"Forbidden. The account of this key is disabled."'),
    LevelTooLow("m", 2, 0): (403, b"\"Forbidden. The model 'm' needs an account of level L2, this one has L0.\""),
    AllowanceSpent(100, 90, 16): (
        403,
        b'{"code":30001,"message":"Sorry, your account balance is insufficient. '
        b'90 of the 100 tokens of this month are spent, and this request has 16.","data":"request"}',
    ),
    RateLimited("TPM", 3): (
        429,
        b'{"message":"Request was rejected due to rate limiting. Details:TPM limit reached.","data":"request"}',
    ),
    PathNotFound(): (404, b'"404 page not found"'),
    MethodRefused("POST"): (405, b'"405 method not allowed, use POST"'),
    NotArrived("body", 2.5): (408, b'"Request timed out: its body had not arrived after 2.5 s."'),
    HeadersTooLarge(100): (431, b'"431 request header fields too large, use at most 100 bytes"'),
    Overloaded(3): (
        503,
        b'{"code":50505,"message":"Model service overloaded. Please try again later.","data":"request"}',
    ),
    Stopping(): (
        503,
        b'{"code":50505,"message":"Model service is stopping. Please try again later.","data":"request"}',
    ),
    InvalidAdminToken(): (401, b'"Admin token is invalid"'),
    NoSuchRecord("there is no account 'x'", "account"): (
        404,
        b'{"message":"there is no account \'x\'","data":"account"}',
    ),
    Conflict("the model 'm' is loading", "name"): (409, b'{"message":"the model \'m\' is loading","data":"name"}'),
    ModelNotLoaded("no weights", "name"): (422, b'{"message":"no weights","data":"name"}'),
    DatabaseDown(3): (
        503,
        b'{"code":50505,"message":"The database of the service does not answer. Please try again later.",'
        b'"data":"request"}',
    ),
    NotRecorded(): (
        503,
        b'{"code":50505,"message":"The request could not be recorded. Please try again later.","data":"request"}',
    ),
    DeadlineExceeded(2.5): (504, b'"Request timed out after 2.5 s. Please try again later."'),
    ClientGone(): (499, b'"client closed the connection"'),
    EngineFault(): (500, b'{"code":50507,"message":"Request failed: Unknown error","data":"request"}'),
}


@pytest.mark.parametrize(("failure", "expected"), ONE_OF_EACH.items(), ids=lambda value: type(value).__name__)
def test_every_failure_is_rendered_by_its_row(failure: RequestFailure, expected: tuple[int, bytes]) -> None:
    """Status and body of each class, compact JSON in the document's key order, text as UTF-8."""
    answer = render(failure)
    assert (answer.status_code, answer.body) == expected
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    wait_s = getattr(failure, "retry_after_s", None)
    assert answer.headers.get("retry-after") == (None if wait_s is None else str(wait_s))
    assert (wait_s is None) == (answer.status_code not in {429, 503})
    assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)


def test_the_table_has_a_row_for_every_failure_and_the_document_s_shapes() -> None:
    """No class is without a row, and each status has the one shape that the document gives it."""
    assert set(WIRE) == set(RequestFailure.__subclasses__()) == {type(failure) for failure in ONE_OF_EACH}
    shapes = {row.status: row.shape for kind, row in WIRE.items() if kind is not NoSuchRecord}  # of /admin only
    document = {400: "object", 401: "string", 404: "string", 429: "object without code", 503: "object", 504: "string"}
    assert document.items() <= shapes.items()


async def test_the_allowed_methods_are_told_in_one_order() -> None:
    """The router keeps methods in a set; clients and caches see them sorted."""
    refusal = HTTPException(405, headers={"Allow": "POST, HEAD, GET"})
    with pytest.raises(MethodRefused) as raised:
        await refuse_method(Request({"type": "http", "method": "PUT"}), refusal)
    assert raised.value.allowed == "GET, HEAD, POST"
