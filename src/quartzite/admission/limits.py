"""How much a principal may use of a model: requests and tokens per minute, hour and day. Knows windows, not stores."""

import hashlib
import math
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quartzite.admission.authenticate import Principal
from quartzite.admission.windows import Count, Windows
from quartzite.config import LevelSettings
from quartzite.domain import Allowance, EmbeddingRequest
from quartzite.errors import WHOLE, RateLimited

Unit = Literal["requests", "tokens"]
Allowances = MutableMapping[str, Allowance]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of `unit` in `period_s` seconds, per account and model, or per `user` inside of these."""

    metric: str
    unit: Unit
    period: Literal["minute", "hour", "day"]
    amount: int
    per_user: bool = False

    @property
    def period_s(self) -> int:
        """The period in seconds."""
        return {"minute": 60, "hour": 3600, "day": 86_400}[self.period]


class Limits:
    """The limits of `levels`, counted in `windows`.

    Short periods are asked first, users before their account: what a later limit refuses has been counted by earlier
    ones, and a minute is sooner forgiven than a day.
    """

    def __init__(self, levels: Iterable[LevelSettings], windows: Windows) -> None:
        self._windows = windows
        self._levels = {(table.level, table.model): _limits(table) for table in levels}

    async def take_request(self, principal: Principal, request: EmbeddingRequest, left: Allowances) -> None:
        """Count one request; raises RateLimited. `left` is told what remains of the tightest limit."""
        await self._take("requests", principal, request, 1, left)

    async def take_tokens(self, principal: Principal, request: EmbeddingRequest, tokens: int, left: Allowances) -> None:
        """Count the `tokens` of a request; raises RateLimited. `left` is told what remains of the tightest limit."""
        await self._take("tokens", principal, request, tokens, left)

    async def _take(
        self, unit: Unit, principal: Principal, request: EmbeddingRequest, amount: int, left: Allowances
    ) -> None:
        limits = [limit for limit in self._of(principal, request) if limit.unit == unit]
        for limit in limits:
            if amount > limit.amount:
                raise _too_large(limit, amount)
        for limit in limits:
            key = _key(limit, principal, request)
            taken, count = await self._windows.take(key, limit.amount, limit.period_s, amount)
            _note(left, limit, count)
            if not taken:
                raise _refusal(limit, math.floor(count.wait_s(limit.amount, amount)) + 1)

    def _of(self, principal: Principal, request: EmbeddingRequest) -> Sequence[Limit]:
        limits = self._levels.get((principal.level, request.model)) or self._levels.get((principal.level, None), ())
        return limits if request.user is not None else [limit for limit in limits if not limit.per_user]


def _limits(table: LevelSettings) -> Sequence[Limit]:
    limits = (
        Limit("RPM", "requests", "minute", table.user_requests_per_minute, per_user=True),
        Limit("RPM", "requests", "minute", table.requests_per_minute),
        Limit("RPH", "requests", "hour", table.requests_per_hour),
        Limit("RPD", "requests", "day", table.requests_per_day),
        Limit("TPM", "tokens", "minute", table.user_tokens_per_minute, per_user=True),
        Limit("TPM", "tokens", "minute", table.tokens_per_minute),
        Limit("TPD", "tokens", "day", table.tokens_per_day),
    )
    return tuple(limit for limit in limits if limit.amount)


def _key(limit: Limit, principal: Principal, request: EmbeddingRequest) -> str:
    """Name a counter; a user is hashed, for it is a text of any length that is nobody's business."""
    account = "settings" if principal.account_id is None else principal.account_id
    key = f"{limit.metric}/{account}/{request.model}"
    if not limit.per_user or request.user is None:
        return key
    user = request.user.encode("utf-8", "surrogatepass")
    return f"{key}/{hashlib.blake2b(user, digest_size=16).hexdigest()}"


def _note(left: Allowances, limit: Limit, count: Count) -> None:
    remaining = max(0, limit.amount - count.used)
    tightest = left.get(limit.unit)
    if tightest is None or remaining < tightest.remaining:
        left[limit.unit] = Allowance(limit.amount, remaining, count.reset_s)


def _refusal(limit: Limit, wait_s: int) -> RateLimited:
    whose = " That is the limit of this user." if limit.per_user else ""
    return RateLimited(limit.metric, wait_s, whose, "user" if limit.per_user else WHOLE)


def _too_large(limit: Limit, amount: int) -> RateLimited:
    whose = " for this user" if limit.per_user else ""
    detail = (
        f" This request has {amount} {limit.unit}, more than the {limit.amount} per {limit.period} that there are"
        f"{whose}: it can never be answered; send less at once."
    )
    return RateLimited(limit.metric, None, detail, "input")
