"""The ledger: what was acknowledged is there, whatever happens; sums are right."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from quartzite.errors import DatabaseDown, NotRecorded
from quartzite.storage.accounts import Accounts
from quartzite.storage.database import Database, open_database
from quartzite.storage.group_commit import GroupCommit
from quartzite.storage.keys import Keys
from quartzite.storage.ledger import LONGEST_TEXT, Ledger, LedgerRow, keep_pruned
from quartzite.storage.usage import UsageRow

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ROW = LedgerRow("ti_0", NOON, None, None, "m", None, 2, 10, 0, 200, None, 0.5, 1.5, 2.5, "127.0.0.1")

WRITER = """
import asyncio, os, sys
from datetime import UTC, datetime
from itertools import count
from quartzite.storage.database import open_database
from quartzite.storage.ledger import Ledger, LedgerRow, keep_pruned

async def write(ledger, task):
    for number in count():
        id = f"ti_{task}_{number}"
        row = LedgerRow(id, datetime.now(UTC), 1, 1, "m", None, 1, 1, 0, 200, None, 0.0, 0.0, 0.0, None)
        await ledger.record(row)
        os.write(1, f"{id}\\n".encode())

async def main():
    with open_database(sys.argv[1]) as database, Ledger(database) as ledger:
        await asyncio.gather(*(write(ledger, task) for task in range(8)))

asyncio.run(main())
"""


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with Ledger(database) as writing:
        yield writing


async def record(ledger: Ledger, *rows: LedgerRow) -> None:
    await asyncio.gather(*map(ledger.record, rows))


def test_a_killed_writer_loses_nothing_that_it_acknowledged(database_url: str) -> None:
    """After SIGKILL in the middle of writing, every row whose record() had returned is in the ledger."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, database_url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(150)]
    writer.kill()
    acknowledged += [line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    with open_database(database_url) as database:
        ledger = Ledger(database)
        missing = [trace_id for trace_id in acknowledged if ledger.trace(trace_id) is None]
    assert len(set(acknowledged)) >= 150
    assert not missing


async def test_a_recorded_row_is_read_back_as_it_was(ledger: Ledger) -> None:
    """All fields survive; a zero character of a client, which PostgreSQL cannot keep, becomes the sign for that."""
    await ledger.record(replace(ROW, model="BAAI\0", user="Jörg\0", account_id=3, code=20015, tokens=2**40))
    sign = "\N{REPLACEMENT CHARACTER}"
    assert ledger.trace("ti_0") == replace(
        ROW, model=f"BAAI{sign}", user=f"Jörg{sign}", account_id=3, code=20015, tokens=2**40
    )
    assert ledger.trace("ti_1") is None


async def test_no_text_of_a_client_makes_a_row_large(ledger: Ledger) -> None:
    """Of a long one its beginning is kept, and two of them stay apart: usage is summed up by them."""
    longest, longer = "é" * LONGEST_TEXT, "é" * 100_000
    users = [longest, longer, longer + "1"]
    await record(ledger, *(replace(ROW, trace_id=f"ti_{n}", model=longer, user=user) for n, user in enumerate(users)))
    rows = [ledger.trace(f"ti_{n}") for n in range(3)]
    kept = [row.user for row in rows if row and row.user]
    assert kept[0] == longest
    assert all(user.startswith(longest) and len(user) < LONGEST_TEXT + 50 for user in kept)
    assert len(set(kept)) == 3
    assert {len(row.model) for row in rows if row and row.model} == {len(kept[1])}


async def test_a_row_that_cannot_be_kept_fails_alone(ledger: Ledger) -> None:
    """Its neighbours of the same moment are kept, and its own waiter hears of it."""
    rows = [ROW, replace(ROW, trace_id="ti_bad", tokens=2**70), replace(ROW, trace_id="ti_2")]
    ended = await asyncio.gather(*map(ledger.record, rows), return_exceptions=True)
    assert [type(end) for end in ended] == [type(None), NotRecorded, type(None)]
    assert [ledger.trace(row.trace_id) for row in rows] == [rows[0], None, rows[2]]


async def test_rows_are_summed_by_every_grouping(database: Database, ledger: Ledger) -> None:
    """Sums by account, key, model, user and day, with names where there are some, within the time asked for."""
    account = Accounts(database).create("acme")
    key, _ = Keys(database).create(account.id, "ci")
    mine = replace(ROW, account_id=account.id, key_id=key.id, user="u")
    await record(
        ledger,
        replace(mine, trace_id="ti_1"),
        replace(mine, trace_id="ti_2", model="n", status=429, tokens=0, items=1),
        replace(ROW, trace_id="ti_3", at=NOON + timedelta(hours=12)),
    )
    nobody, known = (1, 0, 2, 10, 0), (2, 1, 3, 10, 0)
    assert ledger.usage("account") == [UsageRow(("",), *nobody), UsageRow(("acme",), *known)]
    assert ledger.usage("key") == [UsageRow(("", "", ""), *nobody), UsageRow(("acme", "ci", key.shown), *known)]
    assert ledger.usage("user") == [UsageRow(("", ""), *nobody), UsageRow(("acme", "u"), *known)]
    assert ledger.usage("model") == [UsageRow(("m",), 2, 0, 4, 20, 0), UsageRow(("n",), 1, 1, 1, 0, 0)]
    assert ledger.usage("day") == [UsageRow(("2026-11-22",), *known), UsageRow(("2026-11-23",), *nobody)]
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    assert ledger.usage("day", since=midnight) == [UsageRow(("2026-11-23",), *nobody)]
    assert ledger.usage("day", until=midnight) == [UsageRow(("2026-11-22",), *known)]


async def test_the_tokens_of_a_month_are_those_of_its_days(ledger: Ledger) -> None:
    """The first and the last moment of a month count, those beside it and other accounts do not."""
    moments = [datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    moments += [moment - timedelta(milliseconds=1) for moment in moments]
    rows = [replace(ROW, trace_id=f"ti_{i}", account_id=1, at=at, tokens=10**i) for i, at in enumerate(moments)]
    await record(ledger, *rows, replace(ROW, trace_id="ti_other", account_id=2, at=moments[0]))
    assert ledger.month_tokens(1, date(2026, 12, 24)) == 1 + 1000
    assert ledger.month_tokens(3, date(2026, 12, 24)) == 0


async def test_pruning_deletes_what_is_older_and_nothing_else(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows from before the time go, in several pieces, and one of that very time stays."""
    monkeypatch.setattr("quartzite.storage.ledger._PRUNED_AT_ONCE", 2)
    await record(ledger, *(replace(ROW, trace_id=f"ti_{i}", at=NOON + timedelta(seconds=i)) for i in range(6)))
    assert ledger.prune(NOON + timedelta(seconds=5)) == 5
    assert ledger.trace("ti_5") is not None
    assert ledger.prune(NOON) == 0


async def test_nothing_is_recorded_by_a_closed_ledger(database: Database) -> None:
    """A row that comes too late is refused and not left waiting for ever."""
    with Ledger(database) as ledger:
        await ledger.record(ROW)
    with pytest.raises(NotRecorded):
        await ledger.record(replace(ROW, trace_id="ti_late"))


async def test_rows_that_wait_at_the_end_are_committed(database: Database) -> None:
    """The ledger ends when all that was handed in is kept, however much that is."""
    with Ledger(database) as ledger:
        waiting = [asyncio.create_task(ledger.record(replace(ROW, trace_id=f"ti_{i}"))) for i in range(3000)]
        await asyncio.sleep(0)
    assert ledger.usage("day")[0].requests == 3000
    await asyncio.gather(*waiting)


async def test_an_answer_does_not_wait_for_ever_for_its_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database hangs, rows are not acknowledged, in bounded time; they are kept all the same when it can."""
    monkeypatch.setattr("quartzite.storage.ledger.RECORD_S", 0.02)
    answers, commit = threading.Event(), Ledger._commit

    def late(ledger: Ledger, rows: Sequence[LedgerRow]) -> None:
        answers.wait(10)
        commit(ledger, rows)

    monkeypatch.setattr(Ledger, "_commit", late)
    with Ledger(database) as ledger:
        with pytest.raises(NotRecorded):
            await ledger.record(ROW)
        answers.set()
    assert ledger.trace(ROW.trace_id) == ROW


class Gate:
    """A commit that waits to be let through, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, items: Sequence[int]) -> None:
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(10)
        if 13 in items:
            raise OSError("the disk is full")


async def test_what_waits_for_a_commit_shares_the_next() -> None:
    """Items handed in while a commit is under way go together into one, and the lag is the oldest one's."""
    now, gate = [5.0], Gate()
    group = GroupCommit(gate, everyones=(OSError,), clock=lambda: now[0])
    group.start()
    first = asyncio.create_task(group.add(0))
    await asyncio.to_thread(gate.entered.wait, 10)
    rest = [asyncio.create_task(group.add(number)) for number in (1, 2, 13)]
    await asyncio.sleep(0)
    now[0] = 7.0
    assert group.lag_s == 2.0
    rest[0].cancel()
    gate.open.set()
    await first
    ended = await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.to_thread(group.close)
    assert gate.batches == [[0], [1, 2, 13]]
    assert [type(end) for end in ended] == [asyncio.CancelledError, OSError, OSError]
    assert group.lag_s == 0.0


async def test_old_rows_are_deleted_again_and_again_also_after_a_fault(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pruner goes by the retention, tells when the database fails, and tries again after its pause."""
    await record(ledger, ROW, replace(ROW, trace_id="ti_new", at=NOON + timedelta(days=2)))
    prune, asked = ledger.prune, asyncio.Queue[datetime]()

    def failing_once(before: datetime) -> int:
        asked.put_nowait(before)
        if asked.qsize() == 1 and not caplog.records:
            raise DatabaseDown from OSError("the disk is full")
        return prune(before)

    monkeypatch.setattr(ledger, "prune", failing_once)
    with caplog.at_level("INFO", "quartzite"):
        pruning = asyncio.create_task(keep_pruned(ledger, 3, 0.0, lambda: NOON + timedelta(days=4)))
        while "deleted 1 rows" not in caplog.text and not pruning.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        pruning.cancel()
    assert "deleted 1 rows of the ledger older than 3 days" in caplog.text
    assert asked.get_nowait() == NOON + timedelta(days=1)
    assert "old rows of the ledger could not be deleted: the disk is full" in caplog.text
    assert (ledger.trace("ti_0"), ledger.trace("ti_new") is not None) == (None, True)


async def test_a_retention_of_no_days_keeps_everything(ledger: Ledger) -> None:
    """The pruner ends at once, and nothing is deleted."""
    await record(ledger, ROW)
    await keep_pruned(ledger, 0, 0.0, lambda: NOON + timedelta(days=4000))
    assert ledger.trace("ti_0") is not None
