"""Reads the pictures of requests: has them fetched and decoded side by side, within bounds, and counts their memory.

Knows neither HTTP nor image formats; what does is loaded, and processes started, when the first picture comes.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from quartzite.config import ImageSettings
from quartzite.domain import ImageItem, Item, Picture
from quartzite.errors import InvalidImage, Overloaded
from quartzite.preprocess.addresses import AllowedHosts
from quartzite.preprocess.sources import BadPicture, is_url

if TYPE_CHECKING:
    from quartzite.preprocess.fetch import Fetcher, LookUp

logger = logging.getLogger(__name__)

_DECODING_S = 10.0


class Pictures:
    """The pictures of all requests; `look_up` and `tls` are for the fetching of URLs, default: the system's.

    `held_bytes` is how much memory the pictures of running requests may take now. Raises InvalidConfig if
    `allowed_hosts` names what is no host.
    """

    def __init__(
        self,
        settings: ImageSettings,
        look_up: "LookUp | None" = None,
        tls: ssl.SSLContext | None = None,
        decoding_s: float = _DECODING_S,
    ) -> None:
        self.held_bytes = 0
        self._settings = settings
        self._allowed = AllowedHosts(settings.allowed_hosts)
        self._look_up = look_up
        self._tls = tls
        self._decoding_s = decoding_s
        self._loading: asyncio.Task[Fetcher] | None = None
        # A file is in memory from its first byte until its pixels are there: so many at the same time.
        self._files = asyncio.Semaphore(settings.fetches)
        self._decoders = asyncio.Semaphore(settings.decoders)

    @contextmanager
    def held(self, items: Sequence[Item]) -> Iterator[None]:
        """Count the memory of the pictures of `items` inside the `with`, at the most that they may take.

        Raises Overloaded when it would be beyond the bound, unless there are no others: no request is too large for
        ever.
        """
        size = sum(self._bytes(item) for item in items if isinstance(item, ImageItem))
        if size and self.held_bytes and self.held_bytes + size > self._settings.max_held_bytes:
            raise Overloaded
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    async def read(self, items: Sequence[Item]) -> list[Picture | None]:
        """Return the pictures of `items`, None for those without; equal images are read once.

        Raises InvalidImage that names the item at fault, and drops the work for the others then.
        """
        images = {item.image: item.pointer for item in reversed(items) if isinstance(item, ImageItem)}
        if not images:
            return [None] * len(items)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {image: group.create_task(self._picture(image, place)) for image, place in images.items()}
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [tasks[item.image].result() if isinstance(item, ImageItem) else None for item in items]

    async def close(self) -> None:
        """Close what is open; the processes end with the event loop."""
        if self._loading:
            await (await self._loading).close()

    async def _fetcher(self) -> "Fetcher":
        """Return what fetches pictures; its libraries are imported, on a thread, when it is first asked for."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        return await asyncio.shield(self._loading)

    def _load(self) -> "Fetcher":
        from quartzite.preprocess import decode  # noqa: F401  imported here, not on the event loop later
        from quartzite.preprocess.fetch import Fetcher, look_up

        return Fetcher(self._settings, self._allowed, self._look_up or look_up, self._tls)

    async def _picture(self, image: str, place: str) -> Picture:
        pointer = f"{place}.image"
        try:
            fetched = is_url(image)
            async with self._files:
                fetcher = await self._fetcher()
                source = await fetcher.fetch(image) if fetched else image
                async with self._decoders:
                    return await self._decoded(source)
        except BadPicture as fault:
            raise InvalidImage(f"`{pointer}` {fault}.", pointer) from None

    async def _decoded(self, source: bytes | str) -> Picture:
        """Have `source` decoded in a process; one that breaks may have been ended by the system, and is tried again."""
        from anyio import BrokenWorkerProcess

        for attempt in (1, 2):
            try:
                return await self._in_process(source)
            except BrokenWorkerProcess:
                logger.warning("a process that decodes pictures ended (attempt %d of 2)", attempt, exc_info=True)
        raise BadPicture("cannot be decoded: the decoder ends with it")

    async def _in_process(self, source: bytes | str) -> Picture:
        from anyio import CapacityLimiter, to_process

        from quartzite.preprocess.decode import Bounds, decode_apart

        s = self._settings
        bounds = Bounds(s.max_image_bytes, s.max_source_pixels, s.min_pixels, s.max_pixels, s.turn_by_exif)
        try:
            async with asyncio.timeout(self._decoding_s):
                height, width, pixels = await to_process.run_sync(
                    decode_apart, source, bounds, cancellable=True, limiter=CapacityLimiter(1)
                )
        except TimeoutError:
            raise BadPicture(f"cannot be decoded within {self._decoding_s:g} s") from None
        return Picture(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))

    def _bytes(self, item: ImageItem) -> int:
        return len(item.image) + 3 * self._settings.max_pixels
