"""`quartzite accounts`, `keys`, `usage` and `trace` on a real database, as a user runs them."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from command_line import Ended, run
from quartzite.storage.database import open_database
from quartzite.storage.ledger import LedgerRow
from quartzite.storage.records import records_in

DAY = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRACE = "ti_01M87TN0HHWKCS1JX02B45DJK1"


class Office:
    """The commands on one database without a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str) -> Ended:
        return run(*words, "--data-folder", str(self.folder))

    def said(self, *words: str) -> str:
        """Run a command that is to succeed; return its output."""
        ended = self(*words)
        assert ended.code == 0, ended.err
        return ended.out


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A data folder with the account acme and its key 1."""
    office = Office(tmp_path / "data")
    office.said("accounts", "create", "acme", "--level", "2", "--monthly-tokens", "1000")
    office.said("keys", "create", "acme", "--name", "ci")
    return office


async def record(office: Office, *rows: LedgerRow) -> None:
    with open_database(f"sqlite:///{office.folder}/quartzite.db") as database, records_in(database).ledger as ledger:
        for row in rows:
            await ledger.record(row)


def rows(table: str) -> list[list[str]]:
    """Return the cells of a printed table, its titles first."""
    return [re.split(r"  +", line.strip()) for line in table.splitlines()]


def test_an_account_is_shown_as_it_was_made_and_changed(office: Office) -> None:
    """What is not given stays as it is; `none` takes the allowance away."""
    titles = ["account", "level", "tokens per month", "state"]
    assert rows(office.said("accounts", "list")) == [titles, ["acme", "L2", "1000", "enabled"]]
    for words, expected in (
        (["set", "acme", "--level", "5"], ["acme", "L5", "1000", "enabled"]),
        (["set", "acme", "--monthly-tokens", "none"], ["acme", "L5", "any", "enabled"]),
        (["set", "acme"], ["acme", "L5", "any", "enabled"]),
        (["disable", "acme"], ["acme", "L5", "any", "disabled"]),
        (["enable", "acme"], ["acme", "L5", "any", "enabled"]),
    ):
        assert rows(office.said("accounts", *words)) == [titles, expected]
    shown = office.said("accounts", "show", "acme")
    assert "Tokens in this month: 0\n" in shown
    assert re.search(r"\n1 +acme +ci +sk-\w{5}\.\.\. +valid +\d{4}-\d\d-\d\d \d\d:\d\d +never +never\n", shown)


def test_a_secret_is_alone_on_the_output_and_never_shown_again(office: Office) -> None:
    """So that a script can take it; what is said about it goes beside."""
    ended = office("keys", "create", "acme", "--expires-days", "30")
    assert re.fullmatch(r"sk-[a-z0-9]{48}\n", ended.out)
    assert ended.err == "Key 2 (default) of acme. Keep the secret now, it is not shown again:\n"
    rotated = office("keys", "rotate", "2", "--grace-hours", "1.5")
    assert re.fullmatch(r"sk-[a-z0-9]{48}\n", rotated.out)
    assert office.said("keys", "revoke", "3").startswith("The key 3 (sk-")
    listed = office.said("keys", "list", "--account", "acme")
    assert [row[4] for row in rows(listed)] == ["state", "valid", "valid", "revoked"]
    assert office.said("keys", "list") == listed
    for secret in (ended.out, rotated.out):
        assert secret.strip() not in listed + office.said("accounts", "show", "acme")


async def test_usage_is_summed_up_as_table_csv_and_json(office: Office) -> None:
    """By each grouping, between days that are counted in; a user's text cannot steer the terminal."""
    row = LedgerRow(TRACE, DAY, 1, 1, "m", "\x1b[2J", 2, 10, 0, 200, None, 0.5, 1.5, 2.5, "127.0.0.1")
    other = LedgerRow("ti_2", DAY.replace(day=23), None, None, None, None, 0, 0, 0, 401, None, 0.0, 0.0, 0.1, None)
    await record(office, row, other)
    assert rows(office.said("usage")) == [
        ["day", "requests", "failed", "items", "tokens", "images"],
        ["2026-11-22", "1", "0", "2", "10", "0"],
        ["2026-11-23", "1", "1", "0", "0", "0"],
    ]
    assert office.said("usage", "--by", "key", "--format", "csv").splitlines()[0] == (
        "account,key,begins,requests,failed,items,tokens,images"
    )
    assert json.loads(office.said("usage", "--by", "model", "--format", "json", "--until", "2026-11-22")) == [
        {"model": "m", "requests": 1, "failed": 0, "items": 2, "tokens": 10, "images": 0}
    ]
    assert rows(office.said("usage", "--by", "account", "--since", "2026-11-23"))[1:] == [["1", "1", "0", "0", "0"]]
    assert "\x1b" not in office.said("usage", "--by", "user")
    assert "'\\x1b[2J'" in office.said("usage", "--by", "user")
    assert len(rows(office.said("usage", "--until", "9999-12-31"))) == 3


async def test_a_trace_is_shown_with_the_name_of_its_account(office: Office) -> None:
    """All that is kept of it, and a dash for what is not known."""
    await record(
        office, LedgerRow(TRACE, DAY, 1, 1, "m", "\x1b", 2, 10, 0, 200, None, 0.5, 1.50000001, 2.5, "127.0.0.1")
    )
    told = dict(line.split(None, 1) for line in office.said("trace", TRACE).splitlines())
    assert told["at"] == "2026-11-22T12:00:00.000+00:00"
    assert (told["account_id"], told["model"], told["user"], told["code"]) == ("1 (acme)", "m", "'\\x1b'", "-")
    assert (told["tokens"], told["status"], told["engine_ms"]) == ("10", "200", "1.5")


WRONG = {
    "taken name": (["accounts", "create", "acme"], 1, "there is an account 'acme' already"),
    "empty name": (["accounts", "create", ""], 1, "1 to 100 printable characters"),
    "name with a space": (["accounts", "create", " b"], 1, "no space at its ends"),
    "level": (["accounts", "create", "b", "--level", "6"], 1, "level 6 does not exist; levels are 0 to 5"),
    "no level": (["accounts", "create", "b", "--level", "high"], 2, "'high' is not a valid int"),
    "allowance": (["accounts", "set", "acme", "--monthly-tokens", "many"], 2, "'many' is neither a number nor none"),
    "long allowance": (["accounts", "set", "acme", "--monthly-tokens", "9" * 30], 1, "from 0 to 2**63 - 1"),
    "unknown account": (["accounts", "show", "nobody"], 1, "there is no account 'nobody'"),
    "account to set": (["accounts", "set", "nobody", "--level", "1"], 1, "there is no account 'nobody'"),
    "account to disable": (["accounts", "disable", "nobody"], 1, "there is no account 'nobody'"),
    "key of nobody": (["keys", "create", "nobody"], 1, "there is no account 'nobody'"),
    "keys of nobody": (["keys", "list", "--account", "nobody"], 1, "there is no account 'nobody'"),
    "expired key": (["keys", "create", "acme", "--expires-days", "0"], 1, "a key can expire in 1 to 36500 days"),
    "endless key": (["keys", "create", "acme", "--expires-days", "9" * 12], 1, "a key can expire in 1 to 36500 days"),
    "unknown key": (["keys", "revoke", "77"], 1, "there is no key with the id 77"),
    "impossible key": (["keys", "revoke", "9" * 30], 1, f"there is no key with the id {'9' * 30}"),
    "no key": (["keys", "revoke", "first"], 2, "'first' is not a valid int"),
    "endless grace": (["keys", "rotate", "1", "--grace-hours", "inf"], 1, "the grace can be 0 to 876000 hours"),
    "grace of no number": (["keys", "rotate", "1", "--grace-hours", "nan"], 1, "the grace can be 0 to 876000 hours"),
    "grouping": (["usage", "--by", "colour"], 2, "'colour' is not one of"),
    "day": (["usage", "--since", "yesterday"], 2, "'yesterday' does not match the format"),
    "form": (["usage", "--format", "xml"], 2, "'xml' is not one of"),
    "unknown trace": (["trace", TRACE], 1, f"there is no record of '{TRACE}'"),
    "no trace": (["trace", "ti_; DROP TABLE requests"], 1, "there is no record of 'ti_; DROP TABLE requests'"),
}


@pytest.mark.parametrize(("words", "code", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_and_changes_nothing(office: Office, words: list[str], code: int, told: str) -> None:
    """One message on stderr, without a stack; the exit code tells wrong usage from work that failed."""
    before = office.said("accounts", "show", "acme"), office.said("accounts", "list")
    ended = office(*words)
    assert (ended.code, ended.out) == (code, "")
    assert told in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err
    assert (office.said("accounts", "show", "acme"), office.said("accounts", "list")) == before


@pytest.mark.parametrize("words", [["accounts", "list"], ["keys", "list"], ["usage"], ["trace", TRACE]], ids=" ".join)
def test_only_the_first_account_makes_a_database(tmp_path: Path, words: list[str]) -> None:
    """A folder that was misspelt is told, and nothing is made there."""
    ended = run(*words, "--data-folder", str(tmp_path / "absent"))
    assert ended.code == 1
    assert ended.err == (
        f"quartzite: there is no database {tmp_path / 'absent' / 'quartzite.db'}; "
        "quartzite accounts create makes it with the first account\n"
    )
    assert not (tmp_path / "absent").exists()


def test_a_database_by_url_is_the_same(database_url: str) -> None:
    """The commands do the same on SQLite and PostgreSQL."""
    where = ("--storage-url", database_url)
    assert run("accounts", "create", "acme", *where).code == 0
    secret = run("keys", "create", "acme", *where).out.strip()
    assert rows(run("keys", "list", *where).out)[1][:3] == ["1", "acme", "default"]
    assert run("keys", "rotate", "1", *where).out.strip() != secret
    assert run("keys", "revoke", "9" * 30, *where).code == 1
    assert run("accounts", "show", "no\0body", *where).code == 1
    assert run("usage", *where).code == 0
    assert run("trace", "ti_\0", *where).code == 1


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("mysql://host/name", 2, "storage.url must be sqlite:///FILE or postgresql://USER@HOST/NAME"),
        ("postgresql://me:secret@127.0.0.1:9/x", 1, "the database postgresql+psycopg://me:***@127.0.0.1:9/x cannot be"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_without_its_password(url: str, code: int, told: str) -> None:
    """The message names the database and hides what opens it."""
    ended = run("accounts", "list", "--storage-url", url)
    assert (ended.code, told in ended.err, "secret" in ended.err) == (code, True, False), ended.err
