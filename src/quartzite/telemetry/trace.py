"""The trace of one request: the id its client is told, and what its log line will say. Knows nothing of the web."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from quartzite.domain import Allowance, Timings, Withdrawal
from quartzite.errors import RequestFailure

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)


@dataclass(slots=True)
class Trace:
    """What is known of one request while it runs; fields are filled in as they become known.

    `user` is what the client says of its own customers, and never logged. `items`, `images` and `tokens` are counts,
    never content; `timings` say where the time of an answered request went, up to `ready_s`, the moment of
    `time.perf_counter()` at which its vectors were there; `allowances`, by `requests` and `tokens`, are what the limits
    of its caller leave, empty without limits; `withdrawal` is that of its model. `status` is None until an answer
    begins to leave, `failure` says why it is none of success.
    """

    id: str
    model: str | None = None
    user: str | None = None
    items: int | None = None
    images: int | None = None
    tokens: int | None = None
    timings: Timings | None = None
    ready_s: float | None = None
    allowances: Mapping[str, Allowance] = field(default_factory=dict)
    withdrawal: Withdrawal | None = None
    status: int | None = None
    failure: RequestFailure | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended: what it asked for, the `route` it took (empty for paths that do not exist), and its answer.

    `status` is None when nobody was there to be answered; `failure` is the name of the failure's class, None for an
    answer; `began_s` and `ended_s` are moments of `time.perf_counter()`.
    """

    method: str
    path: str
    route: str
    status: int | None
    failure: str | None
    began_s: float
    ended_s: float


def w3c_trace_id(traceparent: bytes) -> str | None:
    """Return the trace id, 32 hexadecimal digits, of a `traceparent` header; None for one that is not valid.

    Source: W3C Trace Context, section 3.2; a version above 00 may have more at its end.
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    if version == b"ff" or (version == b"00" and more) or not (trace.strip(b"0") and parent.strip(b"0")):
        return None
    return trace.decode("ascii")


def new_trace_id() -> str:
    """Return a fresh trace id for a request that arrives now."""
    return trace_id(time.time_ns() // 1_000_000, os.urandom(10))


def trace_id(unix_ms: int, entropy: bytes) -> str:
    """Return `ti_` and the 26 characters of a ULID: ids of different milliseconds sort by time.

    `unix_ms` is the time in milliseconds since 1970, under 2**48; `entropy` holds 10 random bytes. Source: the ULID
    specification, 48 bits of time above 80 random bits.
    """
    bits = unix_ms << 80 | int.from_bytes(entropy, "big")
    return "ti_" + "".join([_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10)])
