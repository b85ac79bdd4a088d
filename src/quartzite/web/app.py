"""The routes of the service, put together. Builds nothing but the application itself."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from quartzite.config import RequestSettings
from quartzite.pipeline import Pipeline
from quartzite.telemetry.metrics import Metrics
from quartzite.web.admin import Admin, admin_routes
from quartzite.web.answering import Answering
from quartzite.web.connection import Bodies
from quartzite.web.direct import Direct
from quartzite.web.documents import Documents
from quartzite.web.embeddings import Embeddings
from quartzite.web.failures import refuse_connection, refuse_method, refuse_path
from quartzite.web.limits import LIMIT_HEADERS
from quartzite.web.models import Models
from quartzite.web.operations import Operations
from quartzite.web.tracing import TRACE_ID, Traced

if TYPE_CHECKING:
    from quartzite.telemetry.spans import Spans


def build_app(
    pipeline: Pipeline,
    settings: RequestSettings,
    metrics: Metrics,
    spans: "Spans | None" = None,
    cors_origins: Sequence[str] = (),
    admin: Admin | None = None,
) -> Starlette:
    """Return the ASGI application that serves `pipeline`.

    Pages of `cors_origins` may call it from a browser. Without `admin` there are no paths under /admin.
    """
    bodies = Bodies(settings)
    metrics.watch_bodies(lambda: bodies.held_bytes)
    models = Models(pipeline)
    operations = Operations(pipeline, metrics, admin.models.changing if admin else {})
    documents = Documents(pipeline.models, settings, admin is not None)
    create = Embeddings(pipeline, settings, bodies).create
    embeddings = Route("/v1/embeddings", create, methods=["POST"])
    app = _Application(
        routes=[
            embeddings,
            Route("/v1/models", models.list, methods=["GET"]),
            Route("/v1/models/{name:path}", models.retrieve, methods=["GET"]),
            Route("/health", operations.health, methods=["GET"]),
            Route("/ready", operations.ready, methods=["GET"]),
            Route("/metrics", operations.metrics, methods=["GET"]),
            Route("/openapi.json", documents.openapi, methods=["GET"]),
            Route("/docs", documents.docs, methods=["GET"]),
            *(admin_routes(admin, pipeline, settings) if admin else ()),
        ],
        middleware=[
            Middleware(Traced, metrics, lambda: pipeline.draining, spans),
            *_cors(cors_origins),
            Middleware(Answering),
            Middleware(Direct, embeddings, "POST", create),
        ],
        exception_handlers={404: refuse_path, 405: refuse_method},
    )
    app.router.redirect_slashes = False  # a path with a slash too many is unknown, as all others are
    return app


class _Application(Starlette):
    """Starlette without its outermost layer: that would look once more for failures, which `Answering` has answered."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the layers from the outermost to the router."""
        app: ASGIApp = ExceptionMiddleware(self.router, self.exception_handlers)
        for layer, arguments, named in reversed(self.user_middleware):
            app = layer(app, *arguments, **named)
        return app


def build_refusal(metrics: Metrics) -> ASGIApp:
    """Return the application for connections that are too many: whatever they ask is 503, and they are closed."""
    return Traced(Answering(refuse_connection), metrics, lambda: True)


def _cors(origins: Sequence[str]) -> Iterator[Middleware]:
    """Yield what lets pages of `origins` call, send whatever headers they like, and read the ones that are told."""
    if origins:
        told = [TRACE_ID, *LIMIT_HEADERS, "retry-after", "x-should-retry", "deprecation", "sunset", "link"]
        yield Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=told,
        )
