"""Keys: secrets that stand for an account, known to the database by their hash only. Knows nothing of HTTP headers."""

import hashlib
import hmac
import secrets
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from quartzite.errors import AbsentRecord, AccountsRefused
from quartzite.storage.accounts import Account, check_name
from quartzite.storage.database import Database
from quartzite.storage.schema import accounts, keys

PREFIX = "sk-"
_ALPHABET = string.ascii_lowercase + string.digits
_RANDOM_CHARACTERS = 48
_SHOWN_CHARACTERS = 8
_SHOWN = [column for column in keys.c if column is not keys.c.digest]


@dataclass(frozen=True, slots=True)
class Key:
    """One key without its secret. `shown` is how the secret begins; times are in UTC, None for never."""

    id: int
    account_id: int
    name: str
    shown: str
    created: datetime
    expires: datetime | None
    last_used: datetime | None
    revoked: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Say whether the key is neither revoked nor expired at `now`."""
        return self.state(now) == "valid"

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Say what is the matter with the key at `now`."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires is None or now < self.expires else "expired"


def utc_now() -> datetime:
    """Return the time of the system clock in UTC."""
    return datetime.now(UTC)


class Keys:
    """The keys of `database`. Methods block; every refusal is an AccountsRefused that names what is wrong."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock

    def create(self, account_id: int, name: str, expires: datetime | None = None) -> tuple[Key, str]:
        """Make a key and return it with its secret, which nobody can find out later."""
        check_name(name, "a key")
        if expires is not None and expires <= self._clock():
            raise AccountsRefused("a key must expire in the future", "expires")
        try:
            with self._database.write() as connection:
                return self._insert(connection, account_id, name, expires)
        except IntegrityError as error:
            raise AbsentRecord(f"there is no account with the id {account_id}", "account") from error

    def find(self, secret: str) -> tuple[Key, Account] | None:
        """Return the key of `secret` and its account, disabled or not; None for a key unknown, revoked or expired."""
        digest = digest_of(secret)
        query = select(keys.c.digest, *_SHOWN, *accounts.c).join(accounts).where(keys.c.digest == digest)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or not hmac.compare_digest(row[0], digest):
            return None
        split = 1 + len(_SHOWN)
        key = Key(*row[1:split])
        return (key, Account(*row[split:])) if key.is_valid(self._clock()) else None

    def list(self, account_id: int | None = None) -> Sequence[Key]:
        """Return the keys of one account or of all, oldest first, those revoked and expired among them."""
        query = select(*_SHOWN).order_by(keys.c.id)
        if account_id is not None:
            query = query.where(keys.c.account_id == account_id)
        with self._database.read() as connection:
            return [_key_of(row) for row in connection.execute(query)]

    def exist(self) -> bool:
        """Say whether a key was ever made, whatever has become of it."""
        with self._database.read() as connection:
            return connection.execute(select(keys.c.id).limit(1)).first() is not None

    def any_valid(self) -> bool:
        """Say whether there is a key with which somebody could come in."""
        now = self._clock()
        return any(key.is_valid(now) for key in self.list())

    def revoke(self, key_id: int) -> Key:
        """Make the key useless from now on; revoking it again changes nothing."""
        with self._database.write() as connection:
            return self._end(connection, key_id, timedelta(0))

    def rotate(self, key_id: int, grace: timedelta = timedelta(0)) -> tuple[Key, str]:
        """Make a new key of the same account, name and lifetime; the old one ends now, or expires after `grace`."""
        with self._database.write() as connection:
            old = self._get(connection, key_id)
            if not old.is_valid(self._clock()):
                raise AccountsRefused(f"the key {key_id} is revoked or expired; create a new one", "id")
            self._end(connection, key_id, grace)
            expires = None if old.expires is None else self._clock() + (old.expires - old.created)
            return self._insert(connection, old.account_id, old.name, expires)

    def touch(self, key_ids: Collection[int], now: datetime) -> None:
        """Remember that these keys were used at `now`; calls that overtake each other never move the time back."""
        older = keys.c.last_used.is_(None) | (keys.c.last_used < now)
        with self._database.write() as connection:
            connection.execute(update(keys).where(keys.c.id.in_(key_ids), older).values(last_used=now))

    def _insert(self, connection: Connection, account_id: int, name: str, expires: datetime | None) -> tuple[Key, str]:
        secret = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
        values = {
            "account_id": account_id,
            "name": name,
            "shown": secret[:_SHOWN_CHARACTERS],
            "digest": digest_of(secret),
            "created": self._clock(),
            "expires": expires,
        }
        return _key_of(connection.execute(insert(keys).values(values).returning(*_SHOWN)).one()), secret

    def _end(self, connection: Connection, key_id: int, grace: timedelta) -> Key:
        key, now = self._get(connection, key_id), self._clock()
        if key.revoked is not None:
            return key
        expires = now + grace if key.expires is None else min(key.expires, now + grace)
        values = {"expires": expires} if grace else {"revoked": now}
        change = update(keys).where(keys.c.id == key_id).values(values).returning(*_SHOWN)
        return _key_of(connection.execute(change).one())

    def _get(self, connection: Connection, key_id: int) -> Key:
        possible = 0 < key_id < 2**31  # a database cannot be asked for a larger one
        row = connection.execute(select(*_SHOWN).where(keys.c.id == key_id)).one_or_none() if possible else None
        if row is None:
            raise AbsentRecord(f"there is no key with the id {key_id}", "id")
        return _key_of(row)


def digest_of(secret: str) -> str:
    """Return the SHA-256 of `secret` in hexadecimal digits: enough for 248 random bits, which nobody can try out."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key_of(row: Sequence[Any]) -> Key:
    return Key(*row)
