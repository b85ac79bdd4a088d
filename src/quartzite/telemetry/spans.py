"""Requests as OpenTelemetry spans, one for the request and one for each of its stages, sent over OTLP.

Knows OpenTelemetry, an extra: imported only where spans are wanted. Knows nothing of the web. Spans are made when a
request has ended, from what its trace says, so that nothing has to be carried through the parts that work on it.
"""

import os
import time
from collections.abc import Callable, Mapping

from quartzite import __version__
from quartzite.config.extras import missing_extra
from quartzite.errors import InvalidConfig
from quartzite.telemetry.trace import Ending, Trace

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagate import extract
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as error:
    raise missing_extra("telemetry.spans", "otel") from error

_SHOWN_CHARACTERS = 200
_ONLY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}


def open_spans() -> "Spans":
    """Return spans that are sent in batches, on a thread, to where the OTEL_* variables of the environment say.

    Raises InvalidConfig where those ask for another exporter than OTLP over HTTP, or hold a value that is none.
    """
    for name, taken in _ONLY.items():
        said = os.environ.get(name) or taken
        if said != taken:
            raise InvalidConfig(f"{name}={said}: spans can be sent as {taken} only; leave {name} out")
    try:
        return Spans(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise InvalidConfig(f"the OTEL_* variables of the environment: {error}") from error


class Spans:
    """Makes the spans of requests and gives them to `processor`."""

    def __init__(self, processor: SpanProcessor, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("quartzite", __version__)
        self._clock_ns = clock_ns

    def request(self, trace: Trace, ending: Ending, headers: Mapping[bytes, bytes]) -> str | None:
        """Record a request that ended and had come with `headers`; return the id of the W3C trace it is part of.

        That is the caller's, where `headers` hold a valid `traceparent`, or else a new one.
        """
        since_perf_counter_ns = self._clock_ns() - round(ending.ended_s * 1e9)
        span = self._tracer.start_span(
            f"{ending.method} {ending.route}".rstrip(),
            extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}),
            SpanKind.SERVER,
            _attributes(trace, ending),
            start_time=since_perf_counter_ns + round(ending.began_s * 1e9),
        )
        if span.is_recording():
            if ending.failure and (ending.status or 500) >= 500:
                span.set_status(StatusCode.ERROR)
            self._stages(trace, set_span_in_context(span, Context()), since_perf_counter_ns)
            span.end(since_perf_counter_ns + round(ending.ended_s * 1e9))
        return _trace_id(span)

    def close(self) -> None:
        """Send what has not been sent; gives up after the time-out of the exporter."""
        self._provider.shutdown()

    def _stages(self, trace: Trace, parent: Context, since_perf_counter_ns: int) -> None:
        """Record the stages of an answered request, laid end to end before its vectors were ready."""
        if trace.timings is None or trace.ready_s is None:
            return
        seconds = {
            "engine": trace.timings.engine_s,
            "queue": trace.timings.queue_s,
            "tokenise": trace.timings.tokenise_s,
            **({"pictures": trace.timings.pictures_s} if trace.images else {}),
        }
        ended_ns = since_perf_counter_ns + round(trace.ready_s * 1e9)
        for name, lasted_s in seconds.items():
            began_ns = ended_ns - round(lasted_s * 1e9)
            self._tracer.start_span(name, parent, start_time=began_ns).end(ended_ns)
            ended_ns = began_ns


def _attributes(trace: Trace, ending: Ending) -> dict[str, AttributeValue]:
    """Return what is known, by the names of OpenTelemetry's conventions where they have one; no content, no key."""
    model = trace.model and trace.model[:_SHOWN_CHARACTERS]
    known: dict[str, AttributeValue | None] = {
        "quartzite.trace_id": trace.id,
        "http.request.method": ending.method,
        "http.route": ending.route or None,
        "url.path": ending.path[:_SHOWN_CHARACTERS],
        "http.response.status_code": ending.status,
        "error.type": ending.failure,
        "gen_ai.operation.name": "embeddings" if model else None,
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": trace.tokens,
        "quartzite.items": trace.items,
    }
    return {name: value for name, value in known.items() if value is not None}


def _resource() -> Resource:
    """Return what the spans are of: this service, unless the environment names it otherwise."""
    said = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": "quartzite", "service.version": __version__, **said})


def _trace_id(span: Span) -> str | None:
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
