"""HTTP/1.1 on one connection: uvicorn's protocol, with bounds on what a client may send and how long it may take.

Knows nothing of routes. While a request is being answered the application has the say; at all other times the client
has a little while to get the head of a request through, and a connection that is given up is closed so that its last
answer can still be read.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quartzite.config import ServerSettings
from quartzite.errors import HeadersTooLarge, InvalidParameter, NotArrived, RequestFailure, wire_row
from quartzite.telemetry.logs import fields
from quartzite.telemetry.trace import new_trace_id
from quartzite.web.connection import DEPARTURE, Departure
from quartzite.web.failures import render

logger = logging.getLogger(__name__)

_TLS = "What was sent is TLS, as for https://; this port speaks http:// only."
MOST_PIPELINED = 16
"""Requests that may be sent ahead on one connection; each of them costs memory before it is looked at."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost.

    `head_bytes` and `head_s`: of a request's line and headers. `drain_bytes`: of the rest of a body that has been
    refused, read so that the client comes to read the answer; it has `head_s` too. `linger_s`: how long a connection
    being closed is still read, `send_s`: how long a client may leave an answer unread.
    """

    head_bytes: int = 64 * 1024
    head_s: float = 10.0
    drain_bytes: int = 256 * 1024 * 1024
    linger_s: float = 2.0
    send_s: float = 60.0


def bounds_of(settings: ServerSettings) -> Bounds:
    """Return the bounds that `settings` ask for."""
    return Bounds(head_bytes=settings.max_header_bytes, head_s=settings.header_timeout_ms / 1000)


class Protocol(HttpToolsProtocol):
    """One connection within `bounds`; the other arguments are uvicorn's.

    `on_refusal` is called with the status of each answer to what has not become a request.
    """

    def __init__(
        self, *arguments: Any, bounds: Bounds, on_refusal: Callable[[int], None] = lambda _: None, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._bounds = bounds
        self._on_refusal = on_refusal
        self._wire: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._in_head = False
        self._packet = b""
        self._unparsed = 0  # bytes since the last one that brought the request forward
        self._drained = 0
        self._departure = Departure()
        self._failure: RequestFailure | None = None  # what is wrong with the bytes, found within the parser
        self.is_leaving = False  # then nothing is sent any more, and what comes is thrown away

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        self._wire = cast(asyncio.Transport, transport)
        self._uvicorns_wire = _Wire(self._wire, self)
        super().connection_made(cast(asyncio.Transport, self._uvicorns_wire))
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.is_leaving = True
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)
        self._departure.happen()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; none of it once the connection is being closed."""
        if not self.is_leaving:
            self._packet = data
            self._unparsed += len(data)
            super().data_received(data)
            self._packet = b""
            self._look_again()

    def _look_again(self) -> None:
        if self.is_leaving:
            return
        if self._unparsed > self._bounds.head_bytes:
            self._refuse(HeadersTooLarge(self._bounds.head_bytes))
        elif self._is_idle and self._timer is None and self.timeout_keep_alive_task is None:
            self._wait()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = cast(dict[str, dict[object, object]], {DEPARTURE: self._departure})

    def on_headers_complete(self) -> None:
        """Take a request's head, unless it is too large or too many requests lie before it."""
        if self._unparsed > self._bounds.head_bytes and self._head_bytes() > self._bounds.head_bytes:
            self._failure = HeadersTooLarge(self._bounds.head_bytes)
            raise ValueError  # stops the parser
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError
        super().on_headers_complete()
        self._in_head = False
        self._unparsed = self._drained = 0
        self._stop_waiting()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; one that nobody waits for any more is passed over, up to a bound."""
        self._unparsed = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._drained += len(body)
            if self._drained > self._bounds.drain_bytes:
                self._close()

    def on_message_complete(self) -> None:
        """Note that a request has arrived whole."""
        self._unparsed = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._stop_waiting()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close)

    def on_response_complete(self) -> None:
        """Go on with the next request, reading none beyond those that have come already."""
        self._uvicorns_wire.send_head()
        super().on_response_complete()
        if self.pipeline and not self.is_leaving:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words for it
        """Refuse bytes that are no request."""
        what = _TLS if self._packet.startswith(b"\x16\x03") else "What was sent is no HTTP/1.1 request."
        self._refuse(self._failure or InvalidParameter(what, "request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Stay with HTTP/1.1, whatever a client offers: Java's offers HTTP/2 with every request.

        The parser has given up at the end of the head, as if the rest were in that other protocol already.
        """
        (read,) = cast(httptools.HttpParserUpgrade, sys.exception()).args
        self.parser = httptools.HttpRequestParser(_Resumed(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing = [name + b": " + value for name, value in self.headers if name in _FRAMING]
        self.cycle.more_body = True
        self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *(framing or [b"content-length: 0"]), b"", b""]))
        self._packet = self._packet[read:]
        if self._packet:
            super().data_received(self._packet)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nothing has come on for long, or on which an answer has not been read."""
        self._close()

    def pause_writing(self) -> None:
        """Give the client some time to read."""
        super().pause_writing()
        self._sending = self.loop.call_later(self._bounds.send_s, self._wire.abort)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        if self._sending:
            self._sending.cancel()
            self._sending = None
        super().resume_writing()

    def shutdown(self) -> None:
        """End with the service: what is idle at once, the rest after its answer."""
        if self._is_idle:
            self._close()
        else:
            super().shutdown()

    def leave(self) -> None:
        """Close the connection: at once if all was read that came, else let the client read the answer first.

        A connection closed with unread bytes is reset, and an answer that lies there with it.
        """
        if self.is_leaving:
            return
        if self.cycle.more_body or self._in_head:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        self.is_leaving = True
        self._stop_waiting()
        self.flow.resume_reading()
        self._wire.write_eof()
        self._timer = self.loop.call_later(self._bounds.linger_s, self._wire.abort)

    def _close(self) -> None:
        self.is_leaving = True
        self._stop_waiting()
        self._wire.close()
        if self._wire.get_write_buffer_size():
            self._timer = self.loop.call_later(self._bounds.send_s, self._wire.abort)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self._bounds.head_s, self._run_out)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _run_out(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(NotArrived("headers", self._bounds.head_s))
        else:
            self._close()

    def _refuse(self, failure: RequestFailure) -> None:
        """Answer what has not become a request, and close the connection; what is under way on it is given up."""
        if self._is_idle or not (self.cycle.response_started or self.pipeline):
            self._wire.write(_bare(failure))
            self._on_refusal(wire_row(failure).status)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._departure.happen()
        self._linger()


_CONTINUE = b"HTTP/1.1 100"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class _Resumed:
    """What a parser calls that is told a head for the second time: nothing for this head, then all that uvicorn has."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._told = False
        self.on_body, self.on_message_complete = protocol.on_body, protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._told:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._told:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._told:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._told:
            self._protocol.on_headers_complete()
        self._told = True


class _Wire:
    """The connection as uvicorn sees it: what it closes is left open until the client has read the answer.

    The head of an answer leaves together with what comes after it: a write costs both sides a system call, and wakes
    the client for nothing.
    """

    def __init__(self, wire: asyncio.Transport, protocol: Protocol) -> None:
        self._protocol = protocol
        self._wire = wire
        self._head = b""
        self.get_extra_info = wire.get_extra_info
        self.pause_reading = wire.pause_reading
        self.resume_reading = wire.resume_reading
        self.abort = wire.abort

    def write(self, data: bytes) -> None:
        if self._protocol.is_leaving:
            return
        if self._head:
            head, self._head = self._head, b""
            self._wire.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(_CONTINUE):
            self._head = data
        else:
            self._wire.write(data)

    def send_head(self) -> None:
        if self._head:
            self.write(b"")

    def is_closing(self) -> bool:
        return self._protocol.is_leaving

    def close(self) -> None:
        self.send_head()
        self._protocol.leave()


def _bare(failure: RequestFailure) -> bytes:
    """Return a whole answer that tells `failure` to a client without a request, and log it."""
    answer, trace_id = render(failure), new_trace_id()
    logger.info("no request", extra=fields(trace_id=trace_id, status=answer.status_code, why=failure.message))
    headers = [*answer.raw_headers, (b"x-siliconcloud-trace-id", trace_id.encode("ascii")), (b"connection", b"close")]
    lines = [name + b": " + value for name, value in headers]
    return STATUS_LINE[answer.status_code] + b"\r\n".join([*lines, b"", bytes(answer.body)])
