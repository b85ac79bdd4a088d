"""Every failure of the service, and the table that gives each its status, code and body shape on the wire.

Knows nobody. The tree:

    QuartziteError
    ├── StartFailure                what stops a command or a model from starting; read by the operator
    │   ├── InvalidConfig
    │   ├── ModelRefused            a folder that cannot be served as it is: unknown architecture, Dense module, ALiBi
    │   ├── WeightsRefused          missing, unexpected, wrongly shaped or unreadable tensors
    │   ├── DownloadFailed
    │   ├── AccountsRefused
    │   │   ├── AbsentRecord
    │   │   └── TakenName
    │   └── MissingExtra
    └── RequestFailure              what a client is answered
        ├── InvalidParameter        400 / 20015
        ├── InvalidImage            400 / 20040
        ├── TooManyItems            400 / 20042
        ├── UnknownModel            400 / 20012
        ├── InvalidToken            401
        ├── InvalidKey              401
        ├── InvalidAdminToken       401
        ├── AccountDisabled         403
        ├── LevelTooLow             403
        ├── AllowanceSpent          403 / 30001
        ├── PathNotFound            404
        ├── NoSuchRecord            404
        ├── MethodRefused           405
        ├── NotArrived              408
        ├── HeadersTooLarge         431
        ├── Conflict                409
        ├── ModelNotLoaded          422
        ├── RateLimited             429
        ├── Overloaded              503 / 50505
        ├── Stopping                503 / 50505
        ├── NotRecorded             503 / 50505
        ├── DatabaseDown            503 / 50505
        ├── DeadlineExceeded        504
        ├── ClientGone              no answer: nobody is there to read it
        └── EngineFault             500 / 50507
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


class QuartziteError(Exception):
    """Base of all failures raised by this package."""


class StartFailure(QuartziteError):
    """A command or a model cannot start; the message tells the operator what to change."""


class InvalidConfig(StartFailure):
    """The settings are wrong; the message lists every fault at once."""


class ModelRefused(StartFailure):
    """A model folder asks for something that would not be honoured."""


class WeightsRefused(StartFailure):
    """A weights file is damaged, unsafe, or does not hold the tensors of its architecture."""


class DownloadFailed(StartFailure):
    """A model could not be fetched whole and verified."""


class AccountsRefused(StartFailure):
    """A change of accounts or keys cannot be made; `field` names the value at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class AbsentRecord(AccountsRefused):
    """There is no account, key or request of that name or id."""


class TakenName(AccountsRefused):
    """Another account has that name."""


class MissingExtra(StartFailure):
    """An optional part is not installed; the message holds the command that installs it."""


WHOLE = "request"
"""The place of a fault that is in no one field."""


class RequestFailure(QuartziteError):
    """A request is answered with an error; `message` is for people, `pointer` names the place at fault.

    The place is a field or an item of it (`input[3]`), or WHOLE; it is never empty, for a client is known that takes an
    empty `data` for an answer without vectors.
    """

    def __init__(self, message: str, pointer: str = WHOLE) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer


class InvalidParameter(RequestFailure):
    """A field of the request has a value that cannot be taken."""

    def __init__(self, detail: str, pointer: str = WHOLE) -> None:
        super().__init__(f"The parameter is invalid. Please check again. {detail}", pointer)


class InvalidImage(RequestFailure):
    """A picture of the request cannot be fetched, decoded or taken."""

    def __init__(self, detail: str, pointer: str = WHOLE) -> None:
        super().__init__(
            f"Image url should be a valid url or should like data:image/TYPE;base64,YOUR-BASE64-CONTENT. {detail}",
            pointer,
        )


class TooManyItems(RequestFailure):
    """The input list is longer than `max_inputs_per_request`."""

    def __init__(self, count: int, allowed: int) -> None:
        super().__init__(f"input batch size {count} > maximum allowed batch size {allowed}", "input")


class UnknownModel(RequestFailure):
    """No model of that name is served."""

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= 100 else name[:100] + "..."
        super().__init__(
            f"Model does not exist. Please check it carefully. No model {shown!r} is served here; "
            "GET /v1/models lists those that are.",
            "model",
        )


class InvalidToken(RequestFailure):
    """There is no Authorization header, or it is not `Bearer` and one key."""

    def __init__(self) -> None:
        super().__init__("Invalid token")


class InvalidKey(RequestFailure):
    """The key is unknown, revoked or expired; which of them, only the operator may know."""

    def __init__(self) -> None:
        super().__init__("Api key is invalid")


class InvalidAdminToken(RequestFailure):
    """A path under /admin was asked for without the admin token."""

    def __init__(self) -> None:
        super().__init__("Admin token is invalid")


class AccountDisabled(RequestFailure):
    """The account of the key has been shut out."""

    def __init__(self) -> None:
        super().__init__("Forbidden. The account of this key is disabled.")


class LevelTooLow(RequestFailure):
    """The model is for accounts of a higher level."""

    def __init__(self, model: str, needed: int, level: int) -> None:
        super().__init__(
            f"Forbidden. The model {model!r} needs an account of level L{needed}, this one has L{level}.", "model"
        )


class AllowanceSpent(RequestFailure):
    """The request would exceed what is left of the account's monthly token allowance."""

    def __init__(self, allowed: int, spent: int, tokens: int) -> None:
        super().__init__(
            "Sorry, your account balance is insufficient. "
            f"{spent} of the {allowed} tokens of this month are spent, and this request has {tokens}."
        )


class NotArrived(RequestFailure):
    """The client took too long to send its request.

    `part` says which part of it, headers or body, had not come after `timeout_s`.
    """

    def __init__(self, part: str, timeout_s: float) -> None:
        super().__init__(f"Request timed out: its {part} had not arrived after {timeout_s:g} s.")


class HeadersTooLarge(RequestFailure):
    """The request's line and headers are longer than `server.max_header_bytes`."""

    def __init__(self, allowed: int) -> None:
        super().__init__(f"431 request header fields too large, use at most {allowed} bytes")


class RateLimited(RequestFailure):
    """A limit of the account, or of one `user` of it, leaves no room for the request.

    `metric` is RPM, RPH, RPD, TPM or TPD; `retry_after_s` says in how many seconds there is room, None for a request
    that is larger than the whole limit.
    """

    def __init__(self, metric: str, retry_after_s: int | None, detail: str = "", pointer: str = WHOLE) -> None:
        super().__init__(f"Request was rejected due to rate limiting. Details:{metric} limit reached.{detail}", pointer)
        self.metric = metric
        self.retry_after_s = retry_after_s


class PathNotFound(RequestFailure):
    """No route has that path."""

    def __init__(self) -> None:
        super().__init__("404 page not found")


class NoSuchRecord(RequestFailure):
    """The admin API was asked for an account, key, request or model that is not there."""


class Conflict(RequestFailure):
    """The admin API was asked for what cannot be now: a name that is taken, a model that is loading."""


class ModelNotLoaded(RequestFailure):
    """A model that the admin API was asked to load cannot be served; the message says why, for the operator."""


class MethodRefused(RequestFailure):
    """The path exists, for other methods."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"405 method not allowed, use {allowed}")
        self.allowed = allowed


class Overloaded(RequestFailure):
    """There is no room for the request now."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("Model service overloaded. Please try again later.")
        self.retry_after_s = retry_after_s


class Stopping(RequestFailure):
    """The service has been told to end: it takes no new requests, or could not finish this one in time."""

    def __init__(self) -> None:
        super().__init__("Model service is stopping. Please try again later.")
        self.retry_after_s = 1


class NotRecorded(RequestFailure):
    """The answer was ready and was not sent, because the database did not take its record."""

    def __init__(self) -> None:
        super().__init__("The request could not be recorded. Please try again later.")
        self.retry_after_s = 1


class DatabaseDown(RequestFailure):
    """Accounts and keys could not be looked up, because the database does not answer."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("The database of the service does not answer. Please try again later.")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(RequestFailure):
    """The answer was not ready within the request's time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"Request timed out after {timeout_s:g} s. Please try again later.")


class ClientGone(RequestFailure):
    """The client closed its connection before the answer was ready."""

    def __init__(self) -> None:
        super().__init__("client closed the connection")


class EngineFault(RequestFailure):
    """The engine failed on this request or returned values that are no embedding."""

    def __init__(self) -> None:
        super().__init__("Request failed: Unknown error")


Shape = Literal["object", "object without code", "string"]


@dataclass(frozen=True, slots=True)
class WireRow:
    """How one failure looks on the wire; an object is `code, message, data`, a string is bare JSON."""

    status: int
    code: int | None
    shape: Shape
    retryable: bool


WIRE: Mapping[type[RequestFailure], WireRow] = {
    InvalidParameter: WireRow(400, 20015, "object", retryable=False),
    InvalidImage: WireRow(400, 20040, "object", retryable=False),
    TooManyItems: WireRow(400, 20042, "object", retryable=False),
    UnknownModel: WireRow(400, 20012, "object", retryable=False),
    InvalidToken: WireRow(401, None, "string", retryable=False),
    InvalidKey: WireRow(401, None, "string", retryable=False),
    InvalidAdminToken: WireRow(401, None, "string", retryable=False),
    AccountDisabled: WireRow(403, None, "string", retryable=False),
    LevelTooLow: WireRow(403, None, "string", retryable=False),
    AllowanceSpent: WireRow(403, 30001, "object", retryable=False),
    PathNotFound: WireRow(404, None, "string", retryable=False),
    NoSuchRecord: WireRow(404, None, "object without code", retryable=False),
    MethodRefused: WireRow(405, None, "string", retryable=False),
    NotArrived: WireRow(408, None, "string", retryable=True),
    HeadersTooLarge: WireRow(431, None, "string", retryable=False),
    Conflict: WireRow(409, None, "object without code", retryable=False),
    ModelNotLoaded: WireRow(422, None, "object without code", retryable=False),
    RateLimited: WireRow(429, None, "object without code", retryable=True),
    Overloaded: WireRow(503, 50505, "object", retryable=True),
    Stopping: WireRow(503, 50505, "object", retryable=True),
    NotRecorded: WireRow(503, 50505, "object", retryable=True),
    DatabaseDown: WireRow(503, 50505, "object", retryable=True),
    DeadlineExceeded: WireRow(504, None, "string", retryable=True),
    ClientGone: WireRow(499, None, "string", retryable=False),
    EngineFault: WireRow(500, 50507, "object", retryable=True),
}


def wire_row(failure: RequestFailure) -> WireRow:
    """Return the row of `failure`'s class; a class without a row is a bug of this file and raises KeyError."""
    return WIRE[type(failure)]
