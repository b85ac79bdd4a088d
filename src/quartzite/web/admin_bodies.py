"""What the admin API is sent: bodies and queries, with every field known and nothing else. Knows no meaning of them."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request

from quartzite.errors import InvalidParameter
from quartzite.web.connection import Bodies
from quartzite.web.headers import check_content

LONGEST_BODY_BYTES = 64 * 1024
_PLACE = re.compile(r"(?P<words>.*?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)
_NAMED_FIELD = re.compile(r"field `(.+)`")


class NewAccount(Struct, forbid_unknown_fields=True):
    """The body that makes an account; `monthly_tokens` null is no allowance."""

    name: str
    level: int = 0
    monthly_tokens: int | None = None


class AccountChanges(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body that changes an account: what is not given stays as it is."""

    level: int | UnsetType = UNSET
    monthly_tokens: int | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class NewKey(Struct, forbid_unknown_fields=True):
    """The body that makes a key; `expires_days` null is a key that never expires."""

    account: str
    name: str = "default"
    expires_days: int | None = None


class Rotation(Struct, forbid_unknown_fields=True):
    """The body that replaces a key: for how long the old one goes on working."""

    grace_hours: float = 0


class Nothing(Struct, forbid_unknown_fields=True):
    """The body where there is nothing to say."""


B = TypeVar("B")


async def read_object(http: Request, kind: type[B], bodies: Bodies) -> B:
    """Return the JSON body of a request as a `kind`, no body being an empty one; raises InvalidParameter and others."""
    check_content(http.headers)
    with bodies.room() as room:
        body = await room.read(http.headers, http.receive)
    try:
        return msgspec.convert(json.loads(body or b"{}", object_pairs_hook=_once, parse_constant=_refuse), kind)
    except msgspec.ValidationError as error:
        raise fault_of(error) from None
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the body must be a JSON object: {error}.", "body") from None


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise InvalidParameter(f"`{name}` is given twice.", name)
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def fault_of(error: msgspec.ValidationError) -> InvalidParameter:
    """Return the failure that names the field of `error`."""
    found = _PLACE.fullmatch(str(error))
    assert found is not None  # noqa: S101  it matches every text
    named = _NAMED_FIELD.search(found["words"])
    place = found["place"] or (named[1] if named else "body")
    words = found["words"][:1].lower() + found["words"][1:]
    return InvalidParameter(f"`{place}`: {words}.", place)


def read_query(http: Request, known: Collection[str]) -> dict[str, str]:
    """Return the query of a request by name; raises InvalidParameter for a name that is not known or comes twice."""
    query: dict[str, str] = {}
    for name, value in http.query_params.multi_items():
        if name not in known:
            raise InvalidParameter(f"`{name}` is no parameter here; there are {', '.join(sorted(known))}.", name)
        if name in query:
            raise InvalidParameter(f"`{name}` is given twice.", name)
        query[name] = value
    return query


def given(changes: Struct) -> dict[str, Any]:
    """Return the fields of `changes` that were given."""
    values: dict[str, Any] = msgspec.structs.asdict(changes)
    return {name: value for name, value in values.items() if value is not UNSET}
