"""Whose request it is: Authorization header → principal. Knows keys by a look-up, not where they are kept."""

import asyncio
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from quartzite.admission.remembered import Remembered
from quartzite.errors import AccountDisabled, InvalidKey, InvalidToken

_MOST_REMEMBERED = 10_000
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Principal:
    """The account that a key stands for.

    `level` is 0 to 5. Ids are None for a key that stands in the settings, `monthly_tokens` without an allowance.
    """

    level: int = 0
    account_id: int | None = None
    key_id: int | None = None
    disabled: bool = False
    monthly_tokens: int | None = None


class FindKey(Protocol):
    """Looks a secret up, blocking; None for one that is unknown, revoked or expired."""

    def __call__(self, secret: str) -> Principal | None:
        """Return whom `secret` stands for."""


class Authenticator:
    """Finds the principal of a header: first among `secrets`, which all belong to `owner`, then by `find`.

    What `find` says is remembered for REMEMBERED_S, counted from before it was asked, and known by hashes only.
    """

    def __init__(
        self,
        secrets: Iterable[str],
        owner: Principal,
        find: FindKey | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digests = [_digest(secret) for secret in secrets]
        self._owner = owner
        self._find = find
        self._clock = clock
        self._remembered: OrderedDict[bytes, Remembered[Principal | None]] = OrderedDict()

    async def principal(self, authorization: str | None) -> Principal:
        """Return whose key stands in the header; raises InvalidToken, InvalidKey, AccountDisabled or DatabaseDown."""
        secret = secret_in(authorization)
        if secret is None:
            raise InvalidToken
        digest = _digest(secret)
        # All are compared: the time it takes says nothing of which one was right.
        if any([hmac.compare_digest(digest, known) for known in self._digests]):
            return self._owner
        found = await self._look_up(self._find, secret, digest) if self._find else None
        if found is None:
            raise InvalidKey
        if found.disabled:
            raise AccountDisabled
        return found

    async def _look_up(self, find: FindKey, secret: str, digest: bytes) -> Principal | None:
        """Ask once for all requests that come with the same secret in the meantime."""
        remembered = self._remembered.setdefault(digest, Remembered(self._clock))
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return await remembered.get(lambda: asyncio.to_thread(find, secret))


def secret_in(authorization: str | None) -> str | None:
    """Return the secret of an Authorization header, None unless it is `Bearer` and one secret."""
    bearer = _BEARER.fullmatch(authorization or "")
    return bearer[1] if bearer else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
