"""Keys that are made and revoked while services run, over one database."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from command_line import run
from fake_models import SOURCE, settings_of
from postgres_server import programs, stopped
from quartzite.bootstrap import running, web_app
from quartzite.config import AccessSettings, ServerSettings, Settings, StorageSettings

PROCESS = """
import asyncio, sys
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.records import KnownKeys
from quartzite.errors import RequestFailure
from quartzite.storage.database import open_database
from quartzite.storage.keys import Keys

async def answer():
    now = 0.0
    with open_database(sys.argv[1]) as database:
        authenticator = Authenticator([], Principal(), KnownKeys(Keys(database)), lambda: now)
        for line in sys.stdin:
            now, secret = float(line.split()[0]), line.split()[1]
            try:
                await authenticator.principal("Bearer " + secret)
                print("comes in", flush=True)
            except RequestFailure as failure:
                print(type(failure).__name__, flush=True)

asyncio.run(answer())
"""


RUBBISH = b"no database at all, but as long as the header of one would be" * 100


class _Service:
    """A service that started without keys, a clock, and the commands on its database."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["_Service"]:
        async with running(self.settings, SOURCE, guarded=True, clock=lambda: self.now) as service:
            self.asks_for_keys = service.asks_for_keys
            transport = httpx.ASGITransport(web_app(service, self.settings))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as self.client:
                yield self

    def command(self, *words: str) -> str:
        """Run a command on the database; return what it prints."""
        storage = self.settings.storage
        where = ["--storage-url", storage.url] if storage.url else ["--data-folder", storage.data_folder]
        ended = run(*words, *where)
        assert ended.code == 0, ended.err
        return ended.out.strip()

    async def ask(self, key: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await self.client.post("/v1/embeddings", json={"model": "m", "input": "a text"}, headers=headers)

    async def status(self, key: str | None = None) -> int:
        return (await self.ask(key)).status_code


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of one model, and of a data folder in which there is no database yet."""
    storage = StorageSettings(data_folder=str(tmp_path / "data"))
    return msgspec.structs.replace(settings_of(tmp_path, m="model"), storage=storage)


async def test_the_first_key_of_a_running_service_is_asked_for_within_two_seconds(settings: Settings) -> None:
    """The database need not exist at the start; an account without a key changes nothing but that rows are kept."""
    async with _Service(settings).open() as service:
        assert not service.asks_for_keys
        assert await service.status() == 200
        service.command("accounts", "create", "acme")
        service.now = 2.0
        assert await service.status() == 200
        secret = service.command("keys", "create", "acme")
        service.now = 4.0
        assert [await service.status(), await service.status("sk-wrong"), await service.status(secret)] == [
            401,
            401,
            200,
        ]
        sums = service.command("usage", "--by", "account", "--format", "csv").splitlines()
    assert sums[1:] == [",3,2,1,7,0", "acme,1,0,1,7,0"]


async def test_an_existing_database_is_watched_too(settings: Settings, database_url: str) -> None:
    """A server that was started on a database without keys asks for the first one within two seconds."""
    settings = msgspec.structs.replace(settings, storage=StorageSettings(url=database_url))
    async with _Service(settings).open() as service:
        assert not service.asks_for_keys
        service.command("accounts", "create", "acme")
        secret = service.command("keys", "create", "acme")
        service.now = 1.99
        assert await service.status() == 200
        service.now = 2.0
        assert [await service.status(), await service.status(secret)] == [401, 200]


async def test_revoking_the_last_key_opens_nothing(settings: Settings) -> None:
    """Neither the running service, nor one that is started after, lets everyone in."""
    async with _Service(settings).open() as service:
        service.command("accounts", "create", "acme")
        secret = service.command("keys", "create", "acme")
        service.now = 2.0
        assert await service.status(secret) == 200
        service.command("keys", "revoke", "1")
        service.now = 4.0
        assert [await service.status(), await service.status(secret)] == [401, 401]
    async with _Service(settings).open() as service:
        assert service.asks_for_keys
        assert await service.status() == 401


async def test_without_authentication_no_key_is_asked_for_and_rows_are_kept_all_the_same(settings: Settings) -> None:
    """`no_auth` holds whatever is in the database; a database made later has the rows of requests from then on."""
    settings = msgspec.structs.replace(settings, server=ServerSettings(no_auth=True))
    async with _Service(settings).open() as service:
        assert await service.status() == 200
        service.command("accounts", "create", "acme")
        service.command("keys", "create", "acme")
        service.now = 2.0
        assert await service.status() == 200
        assert service.command("usage", "--format", "csv").splitlines()[1].split(",")[1:] == ["1", "0", "1", "7", "0"]


async def test_keys_of_a_database_made_later_are_valid_beside_those_of_the_settings(settings: Settings) -> None:
    """A server with `--api-key` and without a database finds the keys of one that comes."""
    settings = msgspec.structs.replace(settings, access=AccessSettings(api_keys=("of-the-settings",)))
    async with _Service(settings).open() as service:
        assert service.asks_for_keys
        assert [await service.status(), await service.status("of-the-settings")] == [401, 200]
        service.command("accounts", "create", "acme")
        secret = service.command("keys", "create", "acme")
        service.now = 2.0
        assert [await service.status(secret), await service.status("of-the-settings")] == [200, 200]


async def test_a_database_that_cannot_be_opened_lets_nobody_in(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """There may be keys in it: 503 and the cause in the log, until it is gone or can be read."""
    async with _Service(settings).open() as service:
        file = settings.storage.file
        file.parent.mkdir()
        file.write_bytes(RUBBISH)
        service.now = 2.0
        assert await service.status() == 503
        assert "file is not a database" in str(caplog.records[-1].fields["cause"])  # type: ignore[attr-defined]
        file.unlink()
        assert await service.status() == 200


async def test_a_database_that_breaks_is_told_as_such_and_lets_nobody_in(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that was believed in until then is 503 and not 401: its holder shall try again, not look for another."""
    async with _Service(settings).open() as service:
        service.command("accounts", "create", "acme")
        secret = service.command("keys", "create", "acme")
        service.now = 2.0
        assert await service.status(secret) == 200
        for file in settings.storage.file.parent.glob("*.db*"):
            file.write_bytes(RUBBISH)
        service.now = 4.0
        answer = await service.ask(secret)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, 50505, "1")
        assert "the database does not answer" in caplog.text
        ended = run("keys", "list", "--data-folder", settings.storage.data_folder)
        assert (ended.code, ended.err.count("\n")) == (1, 1)
        assert "cannot be opened: file is not a database" in ended.err


async def test_while_postgresql_is_stopped_requests_are_told_503(
    settings: Settings, postgres_url: str, postgres_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys that are remembered, forgotten, wrong: all are 503 in one line of the log each, until it runs again."""
    settings = msgspec.structs.replace(settings, storage=StorageSettings(url=postgres_url))
    async with _Service(settings).open() as service:
        service.command("accounts", "create", "acme", "--monthly-tokens", "1000")
        secret = service.command("keys", "create", "acme")
        service.now = 2.0
        assert await service.status(secret) == 200
        bin_folder = programs()
        assert bin_folder is not None
        caplog.clear()
        with stopped(Path(postgres_folder), bin_folder):
            remembered = await service.ask(secret)
            service.now = 4.0
            others = [await service.ask(secret), await service.ask("sk-wrong")]
            listed = await service.client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
        for answer, words in [(remembered, "could not be recorded"), *((other, "database") for other in others)]:
            assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, 50505, "1")
            assert words in answer.json()["message"]
        assert listed.status_code == 503
        told = [record for record in caplog.records if record.levelname == "ERROR"]
        assert [record.exc_info for record in told] == [None] * 4
        assert all("connection" in str(record.fields["cause"]) for record in told)  # type: ignore[attr-defined]
        assert "sqlalche.me" not in str([record.fields for record in told])  # type: ignore[attr-defined]
        assert await service.status(secret) == 200


async def test_a_sqlite_file_that_another_process_holds_is_waited_for_in_bounded_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer leaves without its row: 503, the cause in the log; the rows are kept when the file is let go."""
    monkeypatch.setattr("quartzite.storage.ledger.RECORD_S", 0.05)
    async with _Service(settings).open() as service:
        service.command("accounts", "create", "acme")
        secret = service.command("keys", "create", "acme")
        service.now = 2.0
        assert await service.status(secret) == 200
        holder = sqlite3.connect(settings.storage.file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        refused = await service.ask(secret)
        holder.close()
        assert (refused.status_code, refused.json()["message"].partition(".")[0]) == (
            503,
            "The request could not be recorded",
        )
        assert "not committed within 0.05 s" in str(caplog.records[-1].fields)  # type: ignore[attr-defined]
        monkeypatch.setattr("quartzite.storage.ledger.RECORD_S", 10.0)
        assert await service.status(secret) == 200
        assert service.command("usage", "--by", "account", "--format", "csv").splitlines()[1] == "acme,3,0,3,21,0"


@pytest.fixture
def processes(database_url: str) -> "Iterator[list[subprocess.Popen[str]]]":
    """Two processes that find keys in one database; each line of a time and a secret is answered by one."""
    command = [sys.executable, "-c", PROCESS, database_url]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(2)
        ]


def test_a_revoked_key_dies_within_two_seconds_in_every_process(
    processes: "list[subprocess.Popen[str]]", database_url: str
) -> None:
    """Two processes that believe in a key ask again after two seconds, and it is dead in both."""

    def answers(now: float, secret: str) -> list[str]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{now} {secret}\n")
        return [process.stdout.readline().strip() for process in processes if process.stdout]

    run("accounts", "create", "acme", "--storage-url", database_url)
    secret = run("keys", "create", "acme", "--storage-url", database_url).out.strip()
    assert answers(0.0, secret) == ["comes in", "comes in"]
    assert run("keys", "revoke", "1", "--storage-url", database_url).code == 0
    assert answers(1.99, secret) == ["comes in", "comes in"]
    assert answers(2.0, secret) == ["InvalidKey", "InvalidKey"]
