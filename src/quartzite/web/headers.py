"""The headers that a request for embeddings may have. Knows nothing of bodies."""

import math

from starlette.datastructures import Headers

from quartzite.errors import InvalidParameter

TIMEOUT = "x-request-timeout-ms"


def read_timeout_s(headers: Headers) -> float:
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
