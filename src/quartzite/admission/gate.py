"""Who may use the service, and how much: the place in the pipeline where that is asked. Knows nothing of the web."""

from dataclasses import dataclass
from typing import Protocol

from quartzite.domain import Embedded


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the Authorization header as sent, None without one, and the trace id of the request."""

    authorization: str | None
    trace_id: str


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to go on with one request, given to its caller at the gate."""

    caller: Caller


class Gate(Protocol):
    """Asked three times on the way of a request; a refusal is a RequestFailure raised by the method."""

    async def admit(self, caller: Caller) -> Permit:
        """Let `caller` in before any work is done for it."""

    async def charge(self, permit: Permit, model: str, tokens: int) -> None:
        """Take `tokens`, counted with special tokens, from what the caller may use of `model`."""

    async def record(self, permit: Permit, answer: Embedded) -> None:
        """Write down what the caller used, before the answer leaves."""


class OpenGate:
    """The gate of a service without accounts: everyone comes in, nothing is counted, nothing is kept."""

    async def admit(self, caller: Caller) -> Permit:
        """Let everyone in."""
        return Permit(caller)

    async def charge(self, permit: Permit, model: str, tokens: int) -> None:
        """Charge nothing."""

    async def record(self, permit: Permit, answer: Embedded) -> None:
        """Keep nothing."""
