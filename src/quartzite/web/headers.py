"""The headers that a request for embeddings may have. Knows nothing of bodies."""

import math
import re
from collections.abc import Mapping

from starlette.requests import Request

from quartzite.admission.gate import Caller
from quartzite.errors import InvalidParameter
from quartzite.web.tracing import trace_of

_JSON = re.compile(r"application/(json|[a-z0-9!#$&^_.-]+\+json)")
TIMEOUT = "x-request-timeout-ms"


def check_content(headers: Mapping[str, str]) -> None:
    """Raise InvalidParameter unless the body is said to be plain JSON in UTF-8, or nothing is said of it."""
    content_type = headers.get("content-type")
    if content_type is not None and content_type != "application/json" and not _is_json(content_type):
        raise InvalidParameter(
            "the body must be JSON in UTF-8: send the header `Content-Type: application/json`, "
            f"not {_shown(content_type)}.",
            "content-type",
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in {"identity", ""}:
        raise InvalidParameter(
            f"the body must not be compressed: leave out the header `Content-Encoding: {_shown(encoding)}`.",
            "content-encoding",
        )


def _is_json(content_type: str) -> bool:
    kind, *parameters = [part.strip().lower() for part in content_type.split(";")]
    parted = [parameter.partition("=") for parameter in parameters]
    charsets = {value.strip().strip('"') for name, _, value in parted if name.strip() == "charset"}
    return _JSON.fullmatch(kind) is not None and charsets <= {"utf-8", "utf8"}


def _shown(value: str) -> str:
    return (value if len(value) <= 100 else value[:100] + "...") or "an empty one"


def read_headers(http: Request) -> dict[str, str]:
    """Return the headers by their names in lower case, the first of those that have the same.

    Starlette's mapping goes through all of them for each that is asked for.
    """
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(http.scope["headers"])}


def read_caller(http: Request, headers: Mapping[str, str]) -> Caller:
    """Return who asks."""
    client = http.scope.get("client")
    return Caller(headers.get("authorization"), trace_of(http).id, client[0] if client else None)


def read_timeout_s(headers: Mapping[str, str]) -> float:
    """Return how long the client gives its request, in seconds, infinite when it does not say.

    Raises InvalidParameter for what is no whole number of milliseconds above 0.
    """
    said = headers.get(TIMEOUT)
    if said is None:
        return math.inf
    if not (said.isascii() and said.isdecimal() and said.strip("0")):
        raise InvalidParameter(
            f"the header `{TIMEOUT}` must be a whole number of milliseconds, 1 or more, such as 1500.", TIMEOUT
        )
    return float(said) / 1000
