"""Counters shared by several gateways, in Redis or Valkey, and what counts while that store is down.

Knows the library `limits`, which is imported here only, and when it is needed.
"""

import logging
from collections.abc import Callable

from quartzite.admission.windows import Count, LocalWindows
from quartzite.config import LimitSettings
from quartzite.config.extras import missing_extra
from quartzite.errors import InvalidConfig, Overloaded

logger = logging.getLogger(__name__)
RETRY_S = 1.0
"""How long a store that failed is left alone."""

_ANSWER_S = 0.25


class SharedWindows:
    """Counters in the store of `settings`; while it does not answer, each gateway counts for itself, or refuses.

    A store that failed is asked again after RETRY_S, so that requests do not wait for it one by one. `on_failure` is
    called for each time that it did not answer. Raises MissingExtra where the libraries are not installed.
    """

    def __init__(
        self, settings: LimitSettings, clock: Callable[[], float], on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self._closed = settings.when_down == "closed"
        self._local = LocalWindows(clock)
        self._clock = clock
        self._on_failure = on_failure
        self._down_until: float | None = None
        self._connect(settings.shared_url or "")

    def _connect(self, url: str) -> None:
        try:
            from limits.aio.storage import RedisStorage
            from limits.errors import StorageError
            from redis.asyncio import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            raise missing_extra("limits.shared_url", "shared") from error
        times = {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S, "retry": Retry(NoBackoff(), 0)}
        try:
            self._pool = ConnectionPool.from_url(url, **times)
        except ValueError as error:
            raise InvalidConfig("limits.shared_url must be redis://HOST:PORT/DB, rediss://... or unix://...") from error
        self._store = RedisStorage(
            "async+redis://",
            True,
            "redispy",
            key_prefix="quartzite",
            connection_pool=self._pool,  # type: ignore[arg-type]
        )
        self._failures = StorageError

    async def take(self, key: str, limit: int, period_s: int, amount: int) -> tuple[bool, Count]:
        """Add `amount` to `key` unless that exceeds `limit` per `period_s`; return whether it was, and the count.

        Raises Overloaded while the store is down and the settings say `closed`.
        """
        if self._down_until is None or self._clock() >= self._down_until:
            try:
                taken = await self._take(key, limit, period_s, amount)
            except self._failures as error:
                self._failed(error)
            else:
                self._answered()
                return taken
        if self._closed:
            raise Overloaded
        return await self._local.take(key, limit, period_s, amount)

    async def close(self) -> None:
        """Close the connections to the store."""
        await self._pool.aclose()

    async def _take(self, key: str, limit: int, period_s: int, amount: int) -> tuple[bool, Count]:
        stored = f"{key}/{period_s}"
        taken = await self._store.acquire_sliding_window_entry(stored, limit, period_s, amount)
        previous, previous_left_s, current, current_left_s = await self._store.get_sliding_window(stored, period_s)
        left_s = current_left_s - period_s if current else previous_left_s
        return bool(taken), Count(previous, current, min(max(left_s, 0.0), period_s), period_s)

    def _failed(self, error: Exception) -> None:
        if self._down_until is None:
            instead = "requests are refused" if self._closed else "this gateway counts for itself"
            logger.warning("the shared store of the limits does not answer (%s); %s", error, instead)
        self._down_until = self._clock() + RETRY_S
        self._on_failure()

    def _answered(self) -> None:
        if self._down_until is not None:
            logger.warning("the shared store of the limits answers again")
            self._down_until = None
