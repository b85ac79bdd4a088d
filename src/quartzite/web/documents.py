"""GET /openapi.json and GET /docs: what can be asked of this server, for programs and for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse

from quartzite.config import RequestSettings
from quartzite.web.docs_page import ADDRESS, SECURITY, docs_page
from quartzite.web.failures import JsonResponse
from quartzite.web.openapi import openapi


class Documents:
    """The endpoints that describe the API, with the limits of `settings` and one of the `models` served now.

    `admin` says whether there is an admin API to describe.
    """

    def __init__(self, models: Mapping[str, object], settings: RequestSettings, admin: bool) -> None:
        self._models = models
        self._settings = settings
        self._admin = admin
        self._made: _Made | None = None

    async def openapi(self, _http: Request) -> JsonResponse:
        """Answer with the OpenAPI document."""
        return JsonResponse(self._current().document)

    async def docs(self, http: Request) -> HTMLResponse:
        """Answer with a page that shows the document."""
        address = escape(str(http.base_url).rstrip("/"))
        return HTMLResponse(self._current().page.replace(ADDRESS, address), headers=SECURITY)

    def _current(self) -> "_Made":
        """Return what describes the models served now, which may change."""
        names = tuple(self._models)
        if self._made is None or self._made.names != names:
            self._made = self._make(names)
        return self._made

    def _make(self, names: tuple[str, ...]) -> "_Made":
        document = openapi(self._settings, names, self._admin)
        return _Made(names, orjson.dumps(document), docs_page(document))


@dataclass(frozen=True, slots=True)
class _Made:
    """What describes a server of models with these `names`."""

    names: tuple[str, ...]
    document: bytes
    page: str
