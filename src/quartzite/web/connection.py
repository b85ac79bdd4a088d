"""What happens on the connection of one request: its body arrives, its client may leave. Knows nothing of JSON."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive

from quartzite.errors import ClientGone, InvalidParameter

T = TypeVar("T")


async def read_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole request body of at most `limit_bytes`, refusing a longer one before or as soon as it is.

    Raises InvalidParameter for a body too long, ClientGone for one that ends early.
    """
    if int(headers.get("content-length", 0)) > limit_bytes:  # digits only: the HTTP parser has seen to it
        raise _too_long(limit_bytes)
    chunks: list[bytes] = []
    arrived, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        chunks.append(chunk)
        arrived += len(chunk)
        if arrived > limit_bytes:
            raise _too_long(limit_bytes)
        more = message.get("more_body", False)
    return b"".join(chunks)


async def while_connected(receive: Receive, call: Coroutine[object, object, T]) -> T:
    """Return what `call` returns; cancel it and raise ClientGone when the client leaves before that.

    The request's body must have been read to its end: all that can come after it is the disconnect.
    """
    work = asyncio.create_task(call)
    gone = asyncio.ensure_future(receive())
    gone.add_done_callback(lambda _: work.cancel())
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            raise ClientGone from None
        raise
    finally:
        gone.cancel()


def _too_long(limit_bytes: int) -> InvalidParameter:
    return InvalidParameter(f"the body has more than {limit_bytes} bytes; send fewer items per request.", "body")
