"""Commits what many tasks hand in at once as one transaction. Knows neither rows nor databases."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

_MOST_AT_ONCE = 1000


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    since_s: float
    done: asyncio.Future[None]


class GroupCommit(Generic[Item]):
    """One thread that gives `commit` everything that has been handed in while the last commit was under way.

    `commit` keeps all of its items or raises and keeps none. When it raises one of `everyones` all items have failed;
    after any other exception they are committed one by one, so that an item that cannot be kept fails alone.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], None],
        everyones: tuple[type[Exception], ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commit = commit
        self._everyones = everyones
        self._clock = clock
        self._waiting: SimpleQueue[_Waiting[Item] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._since_s: float | None = None
        self._open = False

    @property
    def lag_s(self) -> float:
        """For how long the oldest item that is not committed has been waiting, in seconds; 0 without any."""
        since_s = self._since_s
        return 0.0 if since_s is None else self._clock() - since_s

    def start(self) -> None:
        """Begin to commit."""
        self._open = True
        self._thread.start()

    def close(self) -> None:
        """Commit what has been handed in, and end."""
        self._open = False
        self._waiting.put(None)
        self._thread.join()

    async def add(self, item: Item, patience_s: float = math.inf) -> None:
        """Return when `item` is committed; raises what `commit` raised, TimeoutError after `patience_s` seconds.

        Neither that nor cancelling it takes the item back.
        """
        if not self._open:
            raise RuntimeError("nothing is committed before start() and after close()")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.put(_Waiting(item, self._clock(), done))
        if patience_s == math.inf:
            await done
            return
        timer = loop.call_later(patience_s, _finish, [done], TimeoutError())  # half the price of asyncio.timeout
        try:
            await done
        finally:
            timer.cancel()

    def _run(self) -> None:
        closing = False
        while not closing:
            batch, closing = self._take()
            if batch:
                self._since_s = batch[0].since_s
                self._commit_all(batch)
                self._since_s = None

    def _take(self) -> tuple[list[_Waiting[Item]], bool]:
        """Wait for something, then return all there is, and whether it is the last."""
        entry = self._waiting.get()
        batch: list[_Waiting[Item]] = []
        while entry is not None:
            batch.append(entry)
            if len(batch) == _MOST_AT_ONCE:
                break
            try:
                entry = self._waiting.get_nowait()
            except Empty:
                break
        return batch, entry is None

    def _commit_all(self, batch: Sequence[_Waiting[Item]]) -> None:
        try:
            self._commit([waiting.item for waiting in batch])
        except self._everyones as error:
            _tell(batch, error)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
            if len(batch) == 1:
                _tell(batch, error)
            else:
                for waiting in batch:
                    self._commit_all([waiting])
        else:
            _tell(batch, None)


def _tell(batch: Sequence[_Waiting[Item]], error: Exception | None) -> None:
    """Wake those who wait for `batch`, with one call for each event loop and not one for each of them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiting in batch:
        by_loop.setdefault(waiting.done.get_loop(), []).append(waiting.done)
    for loop, futures in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_finish, futures, error)


def _finish(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():  # whoever waited has gone
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
