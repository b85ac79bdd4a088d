"""The OpenAPI document of the service: paths and fields from `openapi.json`, failures and limits from the code."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import orjson

from quartzite import __version__
from quartzite.config import DEFAULT_MODEL, RequestSettings
from quartzite.errors import (
    AccountDisabled,
    ClientGone,
    Conflict,
    DatabaseDown,
    EngineFault,
    HeadersTooLarge,
    InvalidAdminToken,
    InvalidKey,
    InvalidParameter,
    InvalidToken,
    MethodRefused,
    ModelNotLoaded,
    NoSuchRecord,
    NotArrived,
    PathNotFound,
    RequestFailure,
    Stopping,
    wire_row,
)
from quartzite.web.examples import EXAMPLES
from quartzite.web.failures import render
from quartzite.web.limits import LIMIT_HEADERS
from quartzite.web.openapi_admin import SCHEME, admin_paths
from quartzite.web.tracing import TRACE_ID

Json = dict[str, Any]

ANYWHERE: tuple[type[RequestFailure], ...] = (InvalidParameter, NotArrived, HeadersTooLarge, EngineFault)
"""What any request may fail with, were it only for the bytes in which it came."""
OF_ADMIN = (InvalidAdminToken, NoSuchRecord, Conflict, ModelNotLoaded)
NOT_WHEN_EMBEDDING = (MethodRefused, ClientGone, *OF_ADMIN)
_OF_EMBEDDINGS = {name: name.rpartition("-")[0] for name in LIMIT_HEADERS} | {
    name: name for name in ("Deprecation", "Sunset", "Link")
}
_SCHEMAS = {"object": "Failure", "object without code": "FailureWithoutCode", "string": "FailureText"}


def openapi(settings: RequestSettings, models: Iterable[str], admin: bool = False) -> Json:
    """Return the document of a server with these `settings` that serves `models`, the first of them in the examples.

    `admin` says whether it has an admin API.
    """
    text = resources.files(__package__).joinpath("openapi.json").read_text(encoding="utf-8")
    document: Json = json.loads(text)
    document["info"]["version"] = __version__
    _fill_in(document, settings, next(iter(models), DEFAULT_MODEL))
    if admin:
        document["tags"].append({"name": "Administration", "description": "Accounts, keys, usage, traces and models."})
        document["components"]["securitySchemes"]["adminToken"] = SCHEME
        document["paths"] |= admin_paths()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = _responses(_failures(path)) | operation["responses"]
            operation["responses"] = dict(sorted(responses.items()))
            _add_headers(operation["responses"], _OF_EMBEDDINGS if path == "/v1/embeddings" else {})
    return document


def _fill_in(document: Json, settings: RequestSettings, model: str) -> None:
    """Write the limits of `settings` and the name of a `model` into the fields of a request."""
    fields = document["components"]["schemas"]["EmbeddingsRequest"]["properties"]
    fields["model"]["example"] = model
    forms = fields["input"]["oneOf"]
    for form in forms:
        if "minItems" in form:
            form["maxItems"] = settings.max_inputs_per_request
    if settings.token_arrays == "reject":  # noqa: S105  a mode, no password
        fields["input"]["oneOf"] = [form for form in forms if "TokenArray" not in str(form)]
    body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        example["value"] = {"model": model, **example["value"]}


def _failures(path: str) -> list[RequestFailure]:
    """Return an example of everything that a request for `path` may fail with."""
    if path == "/v1/embeddings":
        return [failure for failure in EXAMPLES if not isinstance(failure, NOT_WHEN_EMBEDDING)]
    kinds = ANYWHERE
    if path.startswith("/admin"):
        kinds += (*OF_ADMIN, DatabaseDown, Stopping)
    elif path.startswith("/v1/models"):
        kinds += (InvalidToken, InvalidKey, AccountDisabled, DatabaseDown)
    if "{" in path:
        kinds += (PathNotFound,)
    return [failure for failure in EXAMPLES if isinstance(failure, kinds)]


def _responses(failures: Iterable[RequestFailure]) -> Json:
    by_status: dict[str, list[RequestFailure]] = {}
    for failure in failures:
        by_status.setdefault(str(wire_row(failure).status), []).append(failure)
    return {status: _response(same) for status, same in by_status.items()}


def _response(failures: Sequence[RequestFailure]) -> Json:
    names = dict.fromkeys(_SCHEMAS[wire_row(failure).shape] for failure in failures)
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    examples = {type(failure).__name__: {"value": orjson.loads(bytes(render(failure).body))} for failure in failures}
    content = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, "examples": examples}
    return {"description": " ".join(map(_sentence, failures)), "content": {"application/json": content}}


def _sentence(failure: RequestFailure) -> str:
    return " ".join((type(failure).__doc__ or "").split("\n\n")[0].split())


def _add_headers(responses: Json, more: Mapping[str, str]) -> None:
    """Say which headers `responses` have: those of every answer, and `more` by the names of their descriptions."""
    for status, response in responses.items():
        names = [TRACE_ID]
        if status == "401":
            names.append("WWW-Authenticate")
        if status in {"429", "503"}:
            names.append("Retry-After")
        response["headers"] = {name: _header(name) for name in names} | {n: _header(told) for n, told in more.items()}


def _header(name: str) -> Json:
    return {"$ref": f"#/components/headers/{name}"}
