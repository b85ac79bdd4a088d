"""All that is kept in one database, as commands and the admin API ask for it: by name and day, not by id and moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from quartzite.errors import AbsentRecord, AccountsRefused
from quartzite.storage.accounts import Account, Accounts
from quartzite.storage.database import Database
from quartzite.storage.keys import Key, Keys, utc_now
from quartzite.storage.ledger import Ledger, LedgerRow
from quartzite.storage.usage import Grouping, UsageRow

LONGEST_DAYS = 36_500


class NamedKey(NamedTuple):
    """A key and the name of its account."""

    account: str
    key: Key


@dataclass(frozen=True, slots=True)
class Statement:
    """One account with its keys, and the tokens that it used in this month."""

    account: Account
    keys: Sequence[NamedKey]
    month_tokens: int


@dataclass(frozen=True, slots=True)
class Records:
    """Accounts, keys and ledger of one database. Methods block; refusals are AccountsRefused."""

    accounts: Accounts
    keys: Keys
    ledger: Ledger

    def statement(self, account: str) -> Statement:
        """Return what there is to say of the account of that name."""
        found = self.accounts.get(account)
        spent = self.ledger.month_tokens(found.id, utc_now())
        return Statement(found, [NamedKey(account, key) for key in self.keys.list(found.id)], spent)

    def all_keys(self, account: str | None = None) -> Sequence[NamedKey]:
        """Return the keys of one account or of all, oldest first."""
        only = None if account is None else self.accounts.get(account).id
        names = self._names()
        return [NamedKey(names[key.account_id], key) for key in self.keys.list(only)]

    def create_key(self, account: str, name: str, expires_days: int | None = None) -> tuple[NamedKey, str]:
        """Make a key of an account that lives for so many days, None for ever; return it with its secret."""
        if expires_days is not None and not 1 <= expires_days <= LONGEST_DAYS:
            raise AccountsRefused(f"a key can expire in 1 to {LONGEST_DAYS} days", "expires_days")
        expires = None if expires_days is None else utc_now() + timedelta(days=expires_days)
        key, secret = self.keys.create(self.accounts.get(account).id, name, expires)
        return NamedKey(account, key), secret

    def revoke_key(self, key_id: int) -> NamedKey:
        """Make a key useless."""
        return self._named(self.keys.revoke(key_id))

    def rotate_key(self, key_id: int, grace_hours: float = 0) -> tuple[NamedKey, str]:
        """Replace a key, which goes on working for so many hours; return the new one with its secret."""
        if not 0 <= grace_hours <= LONGEST_DAYS * 24:
            raise AccountsRefused(f"the grace can be 0 to {LONGEST_DAYS * 24} hours", "grace_hours")
        key, secret = self.keys.rotate(key_id, timedelta(hours=grace_hours))
        return self._named(key), secret

    def usage(self, by: Grouping, first: date | None = None, last: date | None = None) -> Sequence[UsageRow]:
        """Sum up the ledger from the day `first` to the day `last`, both by UTC and counted in."""
        since = None if first is None else _midnight(first)
        until = None if last is None or last == date.max else _midnight(last) + timedelta(days=1)
        return self.ledger.usage(by, since, until)

    def trace(self, trace_id: str) -> tuple[LedgerRow, str | None]:
        """Return the row of one request, and the name of its account; raises AbsentRecord."""
        row = self.ledger.trace(trace_id)
        if row is None:
            raise AbsentRecord(f"there is no record of {trace_id!r}", "trace_id")
        return row, None if row.account_id is None else self._names().get(row.account_id)

    def _named(self, key: Key) -> NamedKey:
        return NamedKey(self._names()[key.account_id], key)

    def _names(self) -> dict[int, str]:
        return {account.id: account.name for account in self.accounts.list()}


def records_in(database: Database) -> Records:
    """Return the records of an open database; rows are written inside of `with records.ledger:` only."""
    return Records(Accounts(database), Keys(database), Ledger(database))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
