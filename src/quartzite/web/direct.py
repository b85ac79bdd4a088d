"""The shortest way to the route that nearly all requests take. Knows nothing of what it answers."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """The layer above the router, plain ASGI: what asks for exactly the path and method of `route` goes to `endpoint`.

    The router would try one route after the other, and wrap the call twice to catch exceptions that nobody raises here.
    """

    def __init__(self, app: ASGIApp, route: Route, method: str, endpoint: Endpoint) -> None:
        self._app = app
        self._route = route
        self._method = method
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] != self._route.path or scope["method"] != self._method:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
