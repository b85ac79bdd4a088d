"""Accounts and keys on both databases."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import select

from quartzite.errors import AbsentRecord, AccountsRefused
from quartzite.storage.accounts import Account, Accounts
from quartzite.storage.database import Database
from quartzite.storage.keys import Keys
from quartzite.storage.schema import keys as keys_table

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> Keys:
    return Keys(database, clock)


@pytest.fixture
def acme(database: Database) -> Account:
    return Accounts(database).create("acme", level=2, monthly_tokens=2**62)


def test_an_account_is_as_it_was_made_and_changed(database: Database, acme: Account) -> None:
    """What create, set, disable and enable return is what get and list show."""
    accounts = Accounts(database)
    assert accounts.get("acme") == acme == Account(acme.id, "acme", 2, disabled=False, monthly_tokens=2**62)
    assert accounts.change("acme", disabled=True).disabled
    changed = accounts.change("acme", level=5, monthly_tokens=None)
    assert changed == Account(acme.id, "acme", 5, disabled=True, monthly_tokens=None)
    assert accounts.change("acme") == changed
    assert not accounts.change("acme", disabled=False).disabled
    other = accounts.create("Aardvark")
    assert accounts.list() == [other, accounts.get("acme")]


@pytest.mark.parametrize(
    ("name", "level", "tokens", "told"),
    [
        ("acme", 0, None, "an account 'acme' already"),
        ("", 0, None, "1 to 100"),
        (" a", 0, None, "no space at its ends"),
        ("a\x1bb", 0, None, "printable"),
        ("b", 6, None, "level 6 does not exist"),
        ("b", 0, -1, "monthly tokens"),
    ],
)
def test_an_account_that_cannot_be_is_refused(
    database: Database, acme: Account, name: str, level: int, tokens: int | None, told: str
) -> None:
    """Names that are taken or unreadable and values out of range are refused, and nothing is made."""
    with pytest.raises(AccountsRefused, match=told):
        Accounts(database).create(name, level, tokens)
    assert Accounts(database).list() == [acme]


def test_an_unknown_account_is_named(database: Database) -> None:
    """Each verb on an account that is not there says so."""
    accounts = Accounts(database)
    for name in ("nobody", "no\0body", "\ud800", "x" * 10_000):
        for verb in (accounts.get, partial(accounts.change, level=1), partial(accounts.change, disabled=True)):
            with pytest.raises(AbsentRecord, match="no account 'n?" if len(name) < 10 else "no account 'xxx"):
                verb(name)


def test_a_secret_finds_its_key_and_is_nowhere_in_the_database(database: Database, keys: Keys, acme: Account) -> None:
    """A secret is `sk-` and 48 characters, finds its key with the account, and is kept as a hash only."""
    key, secret = keys.create(acme.id, "ci")
    assert secret.startswith("sk-")
    assert len(secret) == 51
    assert secret[3:].isalnum()
    assert keys.find(secret) == (key, acme)
    assert keys.find(secret[:-1]) is None
    assert keys.find("sk-\ud800\0") is None
    with database.read() as connection:
        (row,) = connection.execute(select(keys_table)).all()
    assert secret not in map(str, row)
    assert key.shown == secret[:8]


def test_a_key_dies_when_it_is_revoked_or_expires(keys: Keys, acme: Account, clock: Clock) -> None:
    """A revoked key finds nothing from then on, an expiring one from its moment on."""
    _, short = keys.create(acme.id, "short", NOON + timedelta(hours=1))
    long, secret = keys.create(acme.id, "long")
    clock.now = NOON + timedelta(hours=1)
    assert keys.find(short) is None
    assert keys.any_valid()
    assert keys.revoke(long.id).revoked == clock.now
    assert keys.revoke(long.id).revoked == clock.now
    assert keys.find(secret) is None
    assert not keys.any_valid()


def test_a_disabled_account_is_still_found(database: Database, keys: Keys, acme: Account) -> None:
    """It is for the gate to tell a disabled account from a wrong key."""
    _, secret = keys.create(acme.id, "ci")
    Accounts(database).change("acme", disabled=True)
    found = keys.find(secret)
    assert found is not None
    assert found[1].disabled


def test_rotation_replaces_a_key_at_once_or_after_a_grace(keys: Keys, acme: Account, clock: Clock) -> None:
    """The new key has the name and lifetime of the old one, which works to the end of the grace and no longer."""
    old, first = keys.create(acme.id, "ci", NOON + timedelta(days=30))
    clock.now += timedelta(days=1)
    new, second = keys.rotate(old.id, timedelta(hours=1))
    assert (new.name, new.account_id, new.expires) == ("ci", acme.id, clock.now + timedelta(days=30))
    assert keys.find(first) is not None
    clock.now += timedelta(hours=1)
    assert keys.find(first) is None
    _, third = keys.rotate(new.id)
    assert keys.find(second) is None
    assert keys.find(third) is not None
    with pytest.raises(AccountsRefused, match="revoked or expired"):
        keys.rotate(new.id)


def test_last_use_never_moves_back(keys: Keys, acme: Account) -> None:
    """Batches of uses that arrive in the wrong order leave the latest one; other keys are not touched."""
    one, _ = keys.create(acme.id, "one")
    keys.create(acme.id, "two")
    keys.touch([one.id], NOON + timedelta(seconds=2))
    keys.touch({one.id}, NOON)
    assert [key.last_used for key in keys.list(acme.id)] == [NOON + timedelta(seconds=2), None]


def test_keys_of_nothing_are_refused(keys: Keys, acme: Account) -> None:
    """An account or key that is not there, and an expiry that is past, are named."""
    with pytest.raises(AccountsRefused, match="no account with the id"):
        keys.create(acme.id + 1, "ci")
    with pytest.raises(AccountsRefused, match="in the future"):
        keys.create(acme.id, "ci", NOON)
    for number in (77, 0, -1, 2**31, 10**30):
        with pytest.raises(AbsentRecord, match=f"no key with the id {number}"):
            keys.revoke(number)
