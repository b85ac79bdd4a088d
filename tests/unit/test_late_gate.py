"""Keys that are made while the service runs are asked for within two seconds, and nothing opens again after."""

import asyncio

import pytest

from quartzite.admission.authenticate import Principal
from quartzite.admission.gate import Caller, OpenGate, Permit
from quartzite.admission.late import Found, LateGate
from quartzite.domain import EmbeddingRequest, Outcome, TextItem, Timings
from quartzite.errors import DatabaseDown, InvalidToken, StartFailure

CALLER = Caller(None, "ti_1")
REQUEST = EmbeddingRequest("model", (TextItem("text"),))
OUTCOME = Outcome(200, None, "model", None, 1, 3, Timings(), 0.1)


class _Closed(OpenGate):
    """Lets in who has a header, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def admit(self, caller: Caller) -> Permit:
        if caller.authorization is None:
            raise InvalidToken
        return Permit(caller, Principal())

    async def count(self, permit: Permit, request: EmbeddingRequest) -> None:
        self.asked.append("count")

    async def charge(self, permit: Permit, request: EmbeddingRequest, tokens: int) -> None:
        self.asked.append("charge")

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        self.asked.append("record")


class _Place:
    """What a look finds, how often it was asked, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0
        self.closed = _Closed()
        self.found: Found | Exception = Found(OpenGate(), settled=False)
        self.gate = LateGate(self.look, lambda: self.now)

    async def look(self) -> Found:
        self.looks += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def test_keys_made_later_are_asked_for_within_two_seconds() -> None:
    """Requests within two seconds of the last look cost none; the next one sees the key that was made."""
    place = _Place()
    await place.gate.admit(CALLER)
    place.found = Found(place.closed, settled=True)
    place.now = 1.99
    await place.gate.admit(CALLER)
    assert place.looks == 1
    place.now = 2.0
    with pytest.raises(InvalidToken):
        await place.gate.admit(CALLER)
    assert place.looks == 2


async def test_a_settled_gate_stays_and_is_not_looked_for_again() -> None:
    """When the last key is gone the service does not open for everyone."""
    place = _Place()
    place.found = Found(place.closed, settled=True)
    with pytest.raises(InvalidToken):
        await place.gate.admit(CALLER)
    place.found, place.now = Found(OpenGate(), settled=False), 100.0
    with pytest.raises(InvalidToken):
        await place.gate.admit(CALLER)
    assert place.looks == 1


async def test_a_request_that_came_in_before_the_keys_goes_on_and_is_written_down() -> None:
    """It has no principal whose limits could be asked; a book that is there by its end has its row."""
    place = _Place()
    permit = await place.gate.admit(CALLER)
    place.found, place.now = Found(place.closed, settled=True), 2.0
    other = await place.gate.admit(Caller("Bearer key", "ti_2"))
    await place.gate.count(permit, REQUEST)
    await place.gate.charge(permit, REQUEST, 3)
    await place.gate.record(permit, OUTCOME)
    assert place.closed.asked == ["record"]
    await place.gate.count(other, REQUEST)
    await place.gate.charge(other, REQUEST, 3)
    assert place.closed.asked == ["record", "count", "charge"]


async def test_nobody_comes_in_while_it_cannot_be_told_whether_there_are_keys() -> None:
    """A database that cannot be opened is 503; the first request after that looks again."""
    place = _Place()
    await place.gate.admit(CALLER)
    place.found, place.now = StartFailure("the disk is away"), 2.0
    with pytest.raises(DatabaseDown) as caught:
        await place.gate.admit(CALLER)
    assert caught.value.__cause__ is place.found
    place.found = Found(OpenGate(), settled=False)
    await place.gate.admit(CALLER)


async def test_a_late_answer_does_not_open_what_is_settled() -> None:
    """Of two looks under way at once the older one may end last, and has seen less."""
    place, old = _Place(), asyncio.Event()

    async def slowly() -> Found:
        await old.wait()
        return Found(OpenGate(), settled=False)

    async def look() -> Found:
        return await looks.pop(0)()

    looks = [slowly, place.look]
    gate = LateGate(look, lambda: place.now)
    place.found = Found(place.closed, settled=True)
    first = asyncio.create_task(gate.admit(CALLER))
    await asyncio.sleep(0)
    place.now = 2.0
    with pytest.raises(InvalidToken):
        await gate.admit(CALLER)
    old.set()
    with pytest.raises(InvalidToken):
        await first
    with pytest.raises(InvalidToken):
        await gate.admit(CALLER)
    assert looks == []
