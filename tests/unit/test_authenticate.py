"""Authorization headers become principals, and look-ups are believed for two seconds."""

import asyncio
import threading

import pytest

from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.errors import AccountDisabled, DatabaseDown, InvalidKey, InvalidToken

OWNER, ALICE = Principal(level=1), Principal(level=2, account_id=7, key_id=3)


class _Directory:
    """Keys by secret, a clock, and how often somebody asked."""

    def __init__(self, **keys: Principal) -> None:
        self.keys: dict[str, Principal | Exception] = dict(keys)
        self.asked = 0
        self.now = 100.0

    def find(self, secret: str) -> Principal | None:
        self.asked += 1
        found = self.keys.get(secret)
        if isinstance(found, Exception):
            raise found
        return found

    def authenticator(self, *secrets: str) -> Authenticator:
        return Authenticator(secrets, OWNER, self.find, lambda: self.now)


MALFORMED = [None, "", "alice", "Bearer", "Bearer ", "Bearer Bearer alice", "Bearer ali ce", "Basic alice", "Bearer é"]


@pytest.mark.parametrize("header", MALFORMED)
async def test_a_header_that_is_not_one_bearer_key_is_no_token(header: str | None) -> None:
    """It is refused without a look-up."""
    directory = _Directory(alice=ALICE)
    with pytest.raises(InvalidToken):
        await directory.authenticator().principal(header)
    assert directory.asked == 0


@pytest.mark.parametrize("header", ["Bearer alice", "bearer alice", "BEARER   alice"])
async def test_a_known_key_is_its_account(header: str) -> None:
    """The scheme is case-insensitive, as HTTP has it."""
    assert await _Directory(alice=ALICE).authenticator().principal(header) == ALICE


async def test_keys_of_the_settings_need_no_look_up() -> None:
    """Each of them is the owner's; others are looked up, or unknown where nobody can be asked."""
    directory = _Directory()
    authenticator = directory.authenticator("one", "two")
    assert await authenticator.principal("Bearer one") == await authenticator.principal("Bearer two") == OWNER
    assert directory.asked == 0
    with pytest.raises(InvalidKey):
        await authenticator.principal("Bearer three")
    with pytest.raises(InvalidKey):
        await Authenticator(["one"], OWNER).principal("Bearer three")


async def test_a_disabled_account_is_told_so() -> None:
    """Its key is right, and still nobody comes in."""
    with pytest.raises(AccountDisabled):
        await _Directory(bob=Principal(disabled=True)).authenticator().principal("Bearer bob")


async def test_a_revoked_key_dies_within_two_seconds() -> None:
    """Until then the last look-up is believed, without another one; then it is asked again."""
    directory = _Directory(alice=ALICE)
    authenticator = directory.authenticator()
    await authenticator.principal("Bearer alice")
    directory.keys.clear()
    directory.now += 1.99
    assert await authenticator.principal("Bearer alice") == ALICE
    assert directory.asked == 1
    directory.now += 0.01
    with pytest.raises(InvalidKey):
        await authenticator.principal("Bearer alice")


async def test_the_two_seconds_begin_before_the_look_up() -> None:
    """A slow look-up does not prolong the life of what it has read."""
    directory = _Directory(alice=ALICE)

    def slowly(secret: str) -> Principal | None:
        directory.now += 2.0
        return directory.find(secret)

    authenticator = Authenticator([], OWNER, slowly, lambda: directory.now)
    await authenticator.principal("Bearer alice")
    await authenticator.principal("Bearer alice")
    assert directory.asked == 2


async def test_requests_that_come_together_ask_once() -> None:
    """One look-up serves all that wait for it, also when the first of them leaves."""
    directory, free = _Directory(alice=ALICE), threading.Event()

    def waiting(secret: str) -> Principal | None:
        free.wait()
        return directory.find(secret)

    authenticator = Authenticator([], OWNER, waiting, lambda: directory.now)
    calls = [asyncio.create_task(authenticator.principal("Bearer alice")) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    free.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[1:] == [ALICE] * 4
    assert directory.asked == 1


async def test_a_look_up_that_failed_is_not_believed() -> None:
    """The next request asks again."""
    directory = _Directory()
    directory.keys["alice"] = OSError("the database is away")
    authenticator = directory.authenticator()
    with pytest.raises(OSError, match="away"):
        await authenticator.principal("Bearer alice")
    directory.keys["alice"] = ALICE
    assert await authenticator.principal("Bearer alice") == ALICE


async def test_guessing_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many look-ups are remembered; the oldest are forgotten."""
    monkeypatch.setattr("quartzite.admission.authenticate._MOST_REMEMBERED", 2)
    directory = _Directory(alice=ALICE)
    authenticator = directory.authenticator()
    await authenticator.principal("Bearer alice")
    for guess in ("one", "two"):
        with pytest.raises(InvalidKey):
            await authenticator.principal(f"Bearer {guess}")
    assert await authenticator.principal("Bearer alice") == ALICE
    assert directory.asked == 4


async def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer makes requests fail in bounded time; when it answers, keys are known again."""
    monkeypatch.setattr("quartzite.admission.remembered.LOOK_UP_S", 0.02)
    answers = threading.Event()

    def find(_secret: str) -> Principal:
        answers.wait(10)
        return ALICE

    authenticator = Authenticator((), OWNER, find)
    with pytest.raises(DatabaseDown):
        await authenticator.principal("Bearer alice")
    answers.set()
    monkeypatch.setattr("quartzite.admission.remembered.LOOK_UP_S", 10)
    assert await authenticator.principal("Bearer alice") == ALICE
