"""Accounts: who uses the service, at which level and with what allowance. Knows nothing of keys or limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from quartzite.errors import AbsentRecord, AccountsRefused, TakenName
from quartzite.storage.database import Database
from quartzite.storage.schema import accounts

LEVELS = range(6)
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Account:
    """One customer. `level` 0 to 5 chooses its limits; `monthly_tokens` None stands for no allowance to exceed."""

    id: int
    name: str
    level: int
    disabled: bool
    monthly_tokens: int | None


class Changes(TypedDict, total=False):
    """What can be changed of an account."""

    level: int
    monthly_tokens: int | None
    disabled: bool


class Accounts:
    """The accounts of `database`. Methods block; every refusal is an AccountsRefused that names what is wrong."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, level: int = 0, monthly_tokens: int | None = None) -> Account:
        """Make an account with a name that no other has, of 1 to 100 printable characters without outer spaces."""
        check_name(name, "an account")
        _check(level, monthly_tokens)
        values = {"name": name, "level": level, "disabled": False, "monthly_tokens": monthly_tokens}
        try:
            with self._database.write() as connection:
                row = connection.execute(insert(accounts).values(values).returning(accounts)).one()
        except IntegrityError as error:
            raise TakenName(f"there is an account {name!r} already", "name") from error
        return _account_of(row)

    def list(self) -> Sequence[Account]:
        """Return all accounts by name."""
        with self._database.read() as connection:
            return [_account_of(row) for row in connection.execute(select(accounts).order_by(accounts.c.name))]

    def get(self, name: str) -> Account:
        """Return the account called `name`."""
        with self._database.read() as connection:
            row = connection.execute(select(accounts).where(accounts.c.name == _known(name))).one_or_none()
        return _found(row, name)

    def change(self, name: str, **changes: Unpack[Changes]) -> Account:
        """Give the account called `name` what is named in `changes`; the rest stays as it is.

        A disabled account is shut out: its keys stay and are refused.
        """
        if not changes:
            return self.get(name)
        _check(**changes)
        change = update(accounts).where(accounts.c.name == _known(name)).values(changes).returning(accounts)
        with self._database.write() as connection:
            return _found(connection.execute(change).one_or_none(), name)


def _account_of(row: Sequence[Any]) -> Account:
    return Account(*row)


def _known(name: str) -> str:
    """Return a name that an account may have: a database need not be asked for others, and cannot be for some."""
    if not _is_name(name):
        raise _absent(name)
    return name


def _found(row: Sequence[Any] | None, name: str) -> Account:
    if row is None:
        raise _absent(name)
    return _account_of(row)


def _absent(name: str) -> AbsentRecord:
    return AbsentRecord(f"there is no account {name!r}", "account")


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()


def check_name(name: str, what: str) -> None:
    """Refuse a name that cannot be read off a table or typed again; `what` says whose name it is."""
    if not _is_name(name):
        raise AccountsRefused(
            f"the name of {what} must have 1 to {_LONGEST_NAME} printable characters and no space at its ends", "name"
        )


def _check(level: int = 0, monthly_tokens: int | None = None, disabled: bool = False) -> None:  # noqa: ARG001
    if level not in LEVELS:
        raise AccountsRefused(f"level {level} does not exist; levels are {LEVELS[0]} to {LEVELS[-1]}", "level")
    if monthly_tokens is not None and not 0 <= monthly_tokens < 2**63:
        raise AccountsRefused(
            "the monthly tokens must be a number from 0 to 2**63 - 1, or none for no allowance", "monthly_tokens"
        )
