"""How many tokens an account may use in a calendar month. Knows a sum by a look-up, and nothing of where it is kept."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from quartzite.admission.authenticate import Principal
from quartzite.admission.remembered import REMEMBERED_S, in_time
from quartzite.errors import AllowanceSpent


class SpentTokens(Protocol):
    """Looks up, blocking, what an account has used in the month of `month` (UTC) according to the ledger."""

    def __call__(self, account_id: int, month: datetime) -> int:
        """Return the tokens."""


@dataclass(slots=True)
class _Spent:
    month: tuple[int, int]
    read_at_s: float
    tokens: int


class MonthlyAllowance:
    """What accounts have used of their monthly tokens: the ledger's sum, read every REMEMBERED_S, and what came since.

    What is under way in other processes, and here at the moment of reading, is not in the sum; by so much an
    account may exceed its allowance.
    """

    def __init__(self, spent: SpentTokens, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._look_up = spent
        self._clock = clock
        self._spent: dict[int, _Spent] = {}

    async def take(self, principal: Principal, tokens: int) -> None:
        """Take `tokens` from the month of `principal`, who has an allowance; raises AllowanceSpent or DatabaseDown."""
        allowed, account_id = principal.monthly_tokens, principal.account_id
        if allowed is None or account_id is None:
            return
        spent = await self._of(account_id)
        if spent.tokens + tokens > allowed:
            raise AllowanceSpent(allowed, spent.tokens, tokens)
        spent.tokens += tokens

    async def _of(self, account_id: int) -> _Spent:
        now = self._clock()
        known = self._spent.get(account_id)
        if known and known.month == (now.year, now.month) and now.timestamp() - known.read_at_s < REMEMBERED_S:
            return known
        tokens = await in_time(asyncio.to_thread(self._look_up, account_id, now))
        spent = self._spent[account_id] = _Spent((now.year, now.month), now.timestamp(), tokens)
        return spent
