"""The admin API: its paths, and the token that opens them. Knows nothing of what is behind a path."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quartzite.admission.authenticate import secret_in
from quartzite.config import RequestSettings
from quartzite.errors import InvalidAdminToken
from quartzite.pipeline import Pipeline
from quartzite.web.admin_bodies import LONGEST_BODY_BYTES
from quartzite.web.admin_models import AdminModels, ModelControl
from quartzite.web.admin_records import AdminRecords
from quartzite.web.connection import Bodies

if TYPE_CHECKING:
    from quartzite.storage.records import Records

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Admin:
    """What the holder of `token` may look at and change."""

    token: str
    records: "Records"
    models: ModelControl


def admin_routes(admin: Admin, pipeline: Pipeline, settings: RequestSettings) -> Iterator[Route]:
    """Yield the routes under /admin, all of them for the holder of the token only."""
    bodies = Bodies(msgspec.structs.replace(settings, max_body_bytes=LONGEST_BODY_BYTES))
    records, models = AdminRecords(admin.records, bodies), AdminModels(admin.models, pipeline, bodies)
    expected = _digest(admin.token)
    endpoints: dict[str, dict[str, Endpoint]] = {
        "/admin/accounts": {"GET": records.list_accounts, "POST": records.create_account},
        "/admin/accounts/{name:path}": {"GET": records.show_account, "PATCH": records.change_account},
        "/admin/keys": {"GET": records.list_keys, "POST": records.create_key},
        "/admin/keys/{id:int}/revoke": {"POST": records.revoke_key},
        "/admin/keys/{id:int}/rotate": {"POST": records.rotate_key},
        "/admin/usage": {"GET": records.usage},
        "/admin/traces/{id}": {"GET": records.trace},
        "/admin/models": {"GET": models.list, "POST": models.load},
        "/admin/models/{name:path}": {"GET": models.show, "DELETE": models.unload},
    }
    for path, by_method in endpoints.items():
        yield Route(path, _guarded(by_method, expected), methods=list(by_method))


def _guarded(by_method: dict[str, Endpoint], expected: bytes) -> Endpoint:
    """Return the endpoint of one path: the token first, then what its method stands for."""

    async def endpoint(http: Request) -> Response:
        secret = secret_in(http.headers.get("authorization"))
        # Hashes are compared: the time it takes says nothing of the token, not even its length.
        if secret is None or not hmac.compare_digest(_digest(secret), expected):
            raise InvalidAdminToken
        return await by_method["GET" if http.method == "HEAD" else http.method](http)

    return endpoint


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
