"""Who may use the service, and how much: the place in the pipeline where that is asked. Knows nothing of the web."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from quartzite.admission.allowance import MonthlyAllowance
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.limits import Allowances, Limits
from quartzite.domain import EmbeddingRequest, Outcome
from quartzite.errors import LevelTooLow


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the Authorization header as sent, None without one, the trace id of the request, and its address."""

    authorization: str | None
    trace_id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to go on with one request: for whom, None where nobody is asked, and what the limits leave of it."""

    caller: Caller
    principal: Principal | None = None
    left: Allowances = field(default_factory=dict)

    @property
    def account_id(self) -> int | None:
        """The account that the request is for, None for requests of nobody in particular."""
        return self.principal.account_id if self.principal else None


class Gate(Protocol):
    """Asked on the way of a request; a refusal is a RequestFailure raised by the method."""

    async def admit(self, caller: Caller) -> Permit:
        """Let `caller` in before any work is done for it."""

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        """Count a request for a served model, whatever becomes of it."""

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        """Take the `tokens` of `request`, counted with special tokens, from what the caller may use."""

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Write down what became of a request, before its answer leaves."""


class Book(Protocol):
    """Where requests are written down."""

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Return when the row of this request is safe."""


class OpenGate:
    """The gate of a service without accounts: everyone comes in, nothing is counted, nothing is kept."""

    async def admit(self, caller: Caller) -> Permit:
        """Let everyone in."""
        return Permit(caller)

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        """Count nothing."""

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        """Charge nothing."""

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Keep nothing."""


class RecordingGate(OpenGate):
    """An open gate with a book: requests of nobody in particular are written down."""

    def __init__(self, book: Book) -> None:
        self._book = book

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Write the request down."""
        await self._book.record(permit, outcome)


class KeyedGate:
    """The gate of a service with keys: callers have an account with a level, limits and perhaps an allowance.

    `model_levels` names the models that need a level above 0.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        limits: Limits,
        model_levels: Mapping[str, int],
        allowance: MonthlyAllowance | None = None,
        book: Book | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._model_levels = model_levels
        self._allowance = allowance
        self._book = book

    async def admit(self, caller: Caller) -> Permit:
        """Let the holder of a valid key in; raises InvalidToken, InvalidKey or AccountDisabled."""
        return Permit(caller, await self._authenticator.principal(caller.authorization))

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        """Count a request; raises LevelTooLow or RateLimited."""
        principal = _of(permit)
        needed = self._model_levels.get(request.model, 0)
        if principal.level < needed:
            raise LevelTooLow(request.model, needed, principal.level)
        await self._limits.take_request(principal, request, permit.left)

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        """Take tokens from the limits, then from the month; raises RateLimited or AllowanceSpent."""
        principal = _of(permit)
        await self._limits.take_tokens(principal, request, tokens, permit.left)
        if self._allowance and principal.monthly_tokens is not None:
            await self._allowance.take(principal, tokens)

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        """Write the request down where there is a book."""
        if self._book:
            await self._book.record(permit, outcome)


def _of(permit: Permit) -> Principal:
    if permit.principal is None:
        raise RuntimeError("A permit without a principal passed the gate with keys. This is a bug in the pipeline.")
    return permit.principal
