"""Reads the pictures of requests: has them fetched and decoded side by side, within bounds, and counts their memory.

Knows neither HTTP nor image formats; what does is loaded, and processes started, when the first picture comes.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quartzite.config import ImageSettings
from quartzite.domain import ImageItem, Item, Picture
from quartzite.errors import InvalidImage, Overloaded
from quartzite.preprocess.addresses import AllowedHosts
from quartzite.preprocess.sources import BadPicture, is_url

if TYPE_CHECKING:
    from quartzite.preprocess.decoders import Decoders
    from quartzite.preprocess.fetch import Fetcher, LookUp

logger = logging.getLogger(__name__)

_DECODING_S = 10.0
_NOTHING_HELD = nullcontext()


class _Tools(NamedTuple):
    fetcher: "Fetcher"
    decoders: "Decoders"


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
        self._loading: asyncio.Task[_Tools] | None = None
        # A file is in memory from its first byte until its pixels are there: so many at the same time.
        self._files = asyncio.Semaphore(settings.fetches)
        self._decoders = asyncio.Semaphore(settings.decoders)

    def held(self, items: Sequence[Item]) -> AbstractContextManager[None]:
        """Count the memory of the pictures of `items` inside the `with`, at the most that they may take.

        Raises Overloaded when it would be beyond the bound, unless there are no others: no request is too large for
        ever.
        """
        size = sum([self._bytes(item) for item in items if isinstance(item, ImageItem)])
        return self._held(size) if size else _NOTHING_HELD

    @contextmanager
    def _held(self, size: int) -> Iterator[None]:
        if self.held_bytes and self.held_bytes + size > self._settings.max_held_bytes:
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
        """Close what is open, and end the processes."""
        if self._loading:
            tools = await self._loading
            await tools.decoders.close()
            await tools.fetcher.close()

    async def _tools(self) -> _Tools:
        """Return what fetches and decodes; its libraries are imported, on a thread, when it is first asked for."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        return await asyncio.shield(self._loading)

    def _load(self) -> _Tools:
        from quartzite.preprocess.decode import Bounds
        from quartzite.preprocess.decoders import Decoders
        from quartzite.preprocess.fetch import Fetcher, look_up

        s = self._settings
        bounds = Bounds(s.max_image_bytes, s.max_source_pixels, s.min_pixels, s.max_pixels, s.turn_by_exif)
        return _Tools(Fetcher(s, self._allowed, self._look_up or look_up, self._tls), Decoders(bounds))

    async def _picture(self, image: str, place: str) -> Picture:
        pointer = f"{place}.image"
        try:
            fetched = is_url(image)
            async with self._files:
                tools = await self._tools()
                source = await tools.fetcher.fetch(image) if fetched else image
                async with self._decoders:
                    return await self._decoded(source, tools.decoders)
        except BadPicture as fault:
            raise InvalidImage(f"`{pointer}` {fault}.", pointer) from None

    async def _decoded(self, source: bytes | str, decoders: "Decoders") -> Picture:
        """Have `source` decoded in a process; one that breaks may have been ended by the system, and is tried again."""
        from quartzite.preprocess.decoders import DecoderEnded

        for attempt in (1, 2):
            try:
                async with asyncio.timeout(self._decoding_s):
                    height, width, pixels = await decoders.decode(source)
            except TimeoutError:
                raise BadPicture(f"cannot be decoded within {self._decoding_s:g} s") from None
            except DecoderEnded:
                logger.warning("a process that decodes pictures ended (attempt %d of 2)", attempt, exc_info=True)
            else:
                return Picture(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))
        raise BadPicture("cannot be decoded: the decoder ends with it")

    def _bytes(self, item: ImageItem) -> int:
        return len(item.image) + 3 * self._settings.max_pixels
