"""Accounts, keys, usage and traces over HTTP. Knows the shapes of answers; what is kept is the storage's business."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import orjson
from starlette.requests import Request
from starlette.responses import Response

from quartzite.errors import AbsentRecord, AccountsRefused, Conflict, InvalidParameter, NoSuchRecord, TakenName
from quartzite.web.admin_bodies import (
    AccountChanges,
    NewAccount,
    NewKey,
    Nothing,
    Rotation,
    given,
    read_object,
    read_query,
)
from quartzite.web.connection import Bodies
from quartzite.web.failures import JsonResponse

if TYPE_CHECKING:
    from quartzite.storage.records import NamedKey, Records

T = TypeVar("T")


class AdminRecords:
    """The endpoints of what is kept in `records`."""

    def __init__(self, records: "Records", bodies: Bodies) -> None:
        self._records = records
        self._bodies = bodies

    async def list_accounts(self, http: Request) -> Response:
        """Answer with all accounts by name."""
        read_query(http, ())
        return listing([asdict(account) for account in await _asked(self._records.accounts.list)])

    async def create_account(self, http: Request) -> Response:
        """Make an account."""
        body = await read_object(http, NewAccount, self._bodies)
        made = await _asked(lambda: self._records.accounts.create(body.name, body.level, body.monthly_tokens))
        return answer(asdict(made), 201)

    async def show_account(self, http: Request) -> Response:
        """Answer with one account, its keys, and what it used in this month."""
        name = http.path_params["name"]
        statement = await _asked(lambda: self._records.statement(name))
        keys = [_key(named) for named in statement.keys]
        return answer({**asdict(statement.account), "month_tokens": statement.month_tokens, "keys": keys})

    async def change_account(self, http: Request) -> Response:
        """Change the level, the allowance or the state of an account."""
        name, changes = http.path_params["name"], given(await read_object(http, AccountChanges, self._bodies))
        return answer(asdict(await _asked(lambda: self._records.accounts.change(name, **changes))))

    async def list_keys(self, http: Request) -> Response:
        """Answer with the keys of one account or of all."""
        account = read_query(http, ("account",)).get("account")
        return listing([_key(named) for named in await _asked(lambda: self._records.all_keys(account))])

    async def create_key(self, http: Request) -> Response:
        """Make a key; its secret is in this answer and nowhere else."""
        body = await read_object(http, NewKey, self._bodies)
        made = await _asked(lambda: self._records.create_key(body.account, body.name, body.expires_days))
        return _handed_over(*made)

    async def revoke_key(self, http: Request) -> Response:
        """Make a key useless."""
        await read_object(http, Nothing, self._bodies)
        key_id = http.path_params["id"]
        return answer(_key(await _asked(lambda: self._records.revoke_key(key_id))))

    async def rotate_key(self, http: Request) -> Response:
        """Replace a key; the secret of the new one is in this answer and nowhere else."""
        key_id, grace_hours = http.path_params["id"], (await read_object(http, Rotation, self._bodies)).grace_hours
        return _handed_over(*await _asked(lambda: self._records.rotate_key(key_id, grace_hours)))

    async def usage(self, http: Request) -> Response:
        """Answer with sums of what was used, as JSON or CSV."""
        from quartzite.storage.usage import Grouping, as_csv, as_objects

        query = read_query(http, ("by", "since", "until", "format"))
        by = _choice(query, "by", get_args(Grouping), "day")
        form = _choice(query, "format", ("json", "csv"), "json")
        first, last = _day(query, "since"), _day(query, "until")
        rows = await _asked(lambda: self._records.usage(by, first, last))
        if form == "csv":
            return Response(as_csv(by, rows), media_type="text/csv")
        return listing(as_objects(by, rows))

    async def trace(self, http: Request) -> Response:
        """Answer with what is known of one request."""
        trace_id = http.path_params["id"]
        row, account = await _asked(lambda: self._records.trace(trace_id))
        return answer({**asdict(row), "account": account})


def answer(body: object, status: int = 200) -> JsonResponse:
    """Return `body` as the answer; times are in UTC."""
    return JsonResponse(orjson.dumps(body, option=orjson.OPT_UTC_Z), status)


def listing(data: Sequence[object]) -> JsonResponse:
    """Return a list as the answer."""
    return answer({"object": "list", "data": data})


async def _asked(call: Callable[[], T]) -> T:
    """Return what `call`, which may block, returns; what the storage refuses is told as HTTP has it."""
    try:
        return await asyncio.to_thread(call)
    except AbsentRecord as refusal:
        raise NoSuchRecord(str(refusal), refusal.field) from refusal
    except TakenName as refusal:
        raise Conflict(str(refusal), refusal.field) from refusal
    except AccountsRefused as refusal:
        raise InvalidParameter(f"{refusal}.", refusal.field) from refusal


def _key(named: "NamedKey") -> dict[str, Any]:
    key = named.key
    return {
        "id": key.id,
        "account": named.account,
        "name": key.name,
        "begins": key.shown,
        "state": key.state(datetime.now(UTC)),
        "created": key.created,
        "expires": key.expires,
        "last_used": key.last_used,
        "revoked": key.revoked,
    }


def _handed_over(named: "NamedKey", secret: str) -> JsonResponse:
    told = answer({**_key(named), "secret": secret}, 201)
    told.headers["cache-control"] = "no-store"
    return told


def _choice(query: dict[str, str], name: str, allowed: tuple[T, ...], default: T) -> T:
    value = query.get(name)
    for choice in allowed:
        if choice == value:
            return choice
    if value is None:
        return default
    raise InvalidParameter(f"`{name}` must be one of {', '.join(map(str, allowed))}.", name)


def _day(query: dict[str, str], name: str) -> date | None:
    value = query.get(name)
    try:
        return None if value is None else datetime.strptime(value, "%Y-%m-%d").date()
    except ValueError:
        raise InvalidParameter(f"`{name}` must be a day such as 2026-11-01.", name) from None
