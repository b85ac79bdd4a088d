"""Keys, levels, limits and allowances as clients meet them, byte for byte."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import pytest

from quartzite.admission.allowance import MonthlyAllowance
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.gate import KeyedGate, Permit
from quartzite.admission.limits import Limits
from quartzite.admission.windows import LocalWindows
from quartzite.config import LevelSettings
from quartzite.domain import Outcome
from serving import CLASSIC, CUTTABLE, fake_service

PEOPLE = {
    "alice": Principal(level=0, account_id=1, key_id=1),
    "alice-too": Principal(level=0, account_id=1, key_id=2),
    "bob": Principal(level=1, account_id=2, key_id=3),
    "shut": Principal(disabled=True),
    "poor": Principal(level=5, account_id=3, key_id=4, monthly_tokens=10),
}
TOKENS = 4  # of each request: two ids and two special tokens


class _Office:
    """A service with keys, a clock, and a book in which requests are written down."""

    def __init__(self, *levels: LevelSettings) -> None:
        self.now = 0.0
        self.today = datetime(2026, 1, 31, tzinfo=UTC)
        self.spent = 0
        self.book: list[tuple[Principal | None, Outcome]] = []
        self.gate = KeyedGate(
            Authenticator(["of-the-settings"], Principal(), PEOPLE.get, lambda: self.now),
            Limits(levels, LocalWindows(lambda: self.now)),
            {CUTTABLE: 1},
            MonthlyAllowance(lambda _account, _month: self.spent, lambda: self.today),
            self,
        )

    async def record(self, permit: Permit, outcome: Outcome) -> None:
        self.book.append((permit.principal, outcome))

    @asynccontextmanager
    async def open(self) -> AsyncIterator["_Office"]:
        async with fake_service(gate=self.gate) as service, service.client() as self.client:
            self.engine = service.engine
            self.batcher = service.batcher
            yield self

    async def waiting(self, requests: int) -> None:
        """Return when so many wait for the engine."""
        async with asyncio.timeout(20):
            while self.batcher.depth.requests < requests:  # noqa: ASYNC110  the batcher has no event for it
                await asyncio.sleep(0)

    async def post(self, key: str | None = "alice", **fields: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        body = {"model": CLASSIC, "input": [5, 6], **fields}
        return await self.client.post("/v1/embeddings", json=body, headers=headers)


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{CLASSIC}"])
async def test_the_models_are_told_to_holders_of_keys_only(path: str) -> None:
    """Clients try their key on the list of models: a wrong one is refused there too, and nothing is counted."""
    async with _Office(LevelSettings(level=0, requests_per_minute=1)).open() as office:
        for key, status in [("alice", 200), ("alice", 200), ("eve", 401), ("shut", 403), (None, 401)]:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            assert (await office.client.get(path, headers=headers)).status_code == status
        assert office.book == []


REFUSALS = {
    "no key": (None, CLASSIC, 401, b'"Invalid token"'),
    "two words": ("Bearer alice", CLASSIC, 401, b'"Invalid token"'),
    "unknown key": ("eve", CLASSIC, 401, b'"Api key is invalid"'),
    "disabled account": ("shut", CLASSIC, 403, b'"Forbidden. The account of this key is disabled."'),
    "low level": (
        "alice",
        CUTTABLE,
        403,
        f"\"Forbidden. The model '{CUTTABLE}' needs an account of level L1, this one has L0.\"".encode(),
    ),
}


@pytest.mark.parametrize(("key", "model", "status", "body"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_who_may_not_come_in_is_told_why(key: str | None, model: str, status: int, body: bytes) -> None:
    """A refusal is a bare JSON string, is recorded, and costs the engine nothing."""
    async with _Office().open() as office:
        answer = await office.post(key, model=model)
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert answer.headers["x-siliconcloud-trace-id"].startswith("ti_")
        assert office.engine.batches == []
    assert [outcome.status for _, outcome in office.book] == [status]


async def test_strangers_are_refused_before_their_body_is_read() -> None:
    """A body that is no JSON is 401 without a key, 400 with one."""
    async with _Office().open() as office:
        for headers, status in (({}, 401), ({"Authorization": "Bearer alice"}, 400)):
            answer = await office.client.post("/v1/embeddings", content=b"no JSON", headers=headers)
            assert answer.status_code == status


async def test_valid_keys_come_in_without_limits_and_no_limit_is_told() -> None:
    """Where the level has no table nothing is counted, and no header says so."""
    async with _Office(LevelSettings(level=3, requests_per_minute=1)).open() as office:
        for key, model in (("alice", CLASSIC), ("of-the-settings", CLASSIC), ("bob", CUTTABLE)):
            answer = await office.post(key, model=model)
            assert answer.status_code == 200
            assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


REQUEST_LIMITS = [
    ("requests_per_minute", "RPM", 60),
    ("requests_per_hour", "RPH", 3600),
    ("requests_per_day", "RPD", 86_400),
]
TOKEN_LIMITS = [("tokens_per_minute", "TPM", 60), ("tokens_per_day", "TPD", 86_400)]


@pytest.mark.parametrize(
    ("setting", "metric", "period_s", "amount"),
    [(*limit, 2) for limit in REQUEST_LIMITS] + [(*limit, 2 * TOKENS) for limit in TOKEN_LIMITS],
)
async def test_a_limit_that_is_reached_is_a_429_naming_it(
    setting: str, metric: str, period_s: int, amount: int
) -> None:
    """The third of two is refused without `code`, with the wait; after the wait it is answered."""
    async with _Office(LevelSettings(level=0, **{setting: amount})).open() as office:
        assert [(await office.post()).status_code for _ in range(2)] == [200, 200]
        answer = await office.post()
        assert answer.status_code == 429
        expected = (
            f'{{"message":"Request was rejected due to rate limiting. Details:{metric} limit reached.",'
            '"data":"request"}'
        )
        assert answer.content == expected.encode()
        unit = "requests" if metric.startswith("R") else "tokens"
        assert answer.headers[f"x-ratelimit-limit-{unit}"] == str(amount)
        assert answer.headers[f"x-ratelimit-remaining-{unit}"] == "0"
        wait_s = int(answer.headers["retry-after"])
        assert period_s < wait_s < 2 * period_s
        office.now += wait_s
        assert (await office.post()).status_code == 200


async def test_every_answer_tells_what_is_left() -> None:
    """Limit, rest and reset of requests and tokens are on answers and failures alike, as OpenAI's clients read them."""
    limits = LevelSettings(level=0, requests_per_minute=10, requests_per_day=500, tokens_per_minute=100)
    async with _Office(limits).open() as office:
        office.now = 15.0
        answered, failed = await office.post(), await office.post(dimensions=3)
    told = {name: value for name, value in answered.headers.items() if name.startswith("x-ratelimit")}
    assert told == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1m45s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "96",
        "x-ratelimit-reset-tokens": "1m45s",
    }
    assert failed.status_code == 400
    assert failed.headers["x-ratelimit-remaining-requests"] == "8"


async def test_limits_are_of_an_account_and_a_model() -> None:
    """Keys of one account share its limit; another model, another account and another level have their own."""
    limits = [LevelSettings(level=0, requests_per_minute=1), LevelSettings(level=1, requests_per_minute=1)]
    limits += [LevelSettings(level=1, model=CUTTABLE, requests_per_minute=2)]
    async with _Office(*limits).open() as office:
        asked = [
            ("alice", CLASSIC),
            ("alice-too", CLASSIC),
            ("bob", CLASSIC),
            ("bob", CLASSIC),
            *[("bob", CUTTABLE)] * 3,
        ]
        statuses = [(await office.post(key, model=model)).status_code for key, model in asked]
    assert statuses == [200, 429, 200, 429, 200, 200, 429]


async def test_accounts_have_equal_shares_of_the_engine() -> None:
    """A query does not stand behind all that another account has sent before, whatever keys that used."""
    async with _Office().open() as office:
        ended: list[str] = []
        others = itertools.count(5)

        async def ask(key: str) -> None:
            texts = [[next(others), *[5] * 61] for _ in range(8)]
            assert (await office.post(key, input=texts)).status_code == 200
            ended.append(key)

        office.engine.hold()
        many = [asyncio.create_task(ask(key)) for key in ("alice", "alice-too") * 10]
        await office.waiting(19)  # and one is in the engine
        one = asyncio.create_task(ask("bob"))
        await office.waiting(20)
        office.engine.release()
        await asyncio.gather(*many, one)
    assert ended.index("bob") <= 6


@pytest.mark.parametrize(
    ("setting", "metric", "amount"),
    [("user_requests_per_minute", "RPM", 1), ("user_tokens_per_minute", "TPM", TOKENS)],
)
async def test_each_user_of_an_account_has_a_limit_where_set(setting: str, metric: str, amount: int) -> None:
    """One user who asks too much leaves the others and those without `user` alone; the answer points to the field."""
    async with _Office(LevelSettings(level=0, **{setting: amount})).open() as office:
        for user in ("ann", "ben", None, None):
            assert (await office.post(user=user)).status_code == 200
        answer = await office.post(user="ann")
    assert answer.status_code == 429
    assert (
        answer.content
        == (
            f'{{"message":"Request was rejected due to rate limiting. Details:{metric} limit reached. '
            'That is the limit of this user.","data":"user"}'
        ).encode()
    )


async def test_a_request_larger_than_the_whole_limit_is_refused_at_once_and_told_so() -> None:
    """No waiting helps: there is no Retry-After, clients are told not to retry, and nothing is taken."""
    async with _Office(LevelSettings(level=0, tokens_per_minute=5)).open() as office:
        answer = await office.post(input=[[5, 6], [5, 6]])
        assert answer.status_code == 429
        assert answer.content == (
            b'{"message":"Request was rejected due to rate limiting. Details:TPM limit reached. This request has '
            b"8 tokens, more than the 5 per minute that there are: it can never be answered; send less at once."
            b'","data":"input"}'
        )
        assert "retry-after" not in answer.headers
        assert answer.headers["x-should-retry"] == "false"
        assert office.engine.batches == []
        assert (await office.post()).status_code == 200


async def test_requests_count_although_they_fail() -> None:
    """A request that the model cannot answer takes its place in the minute."""
    async with _Office(LevelSettings(level=0, requests_per_minute=1)).open() as office:
        assert (await office.post(dimensions=3)).status_code == 400
        assert (await office.post()).status_code == 429


async def test_a_spent_month_is_403_until_the_next_one() -> None:
    """What does not fit in the month is an object with code 30001 that says how much is spent."""
    async with _Office().open() as office:
        assert [(await office.post("poor")).status_code for _ in range(2)] == [200, 200]
        answer = await office.post("poor")
        assert answer.status_code == 403
        assert answer.content == (
            b'{"code":30001,"message":"Sorry, your account balance is insufficient. 8 of the 10 tokens of this month '
            b'are spent, and this request has 4.","data":"request"}'
        )
        office.today = datetime(2026, 2, 1, tzinfo=UTC)
        assert (await office.post("poor")).status_code == 200
        office.spent, office.today = 9, datetime(2026, 2, 1, second=2, tzinfo=UTC)
        assert (await office.post("poor")).status_code == 403


async def test_every_request_is_recorded_with_who_asked_and_what_became_of_it() -> None:
    """Answers and failures, in order, with the counts that are known."""
    async with _Office().open() as office:
        await office.post(user="ann")
        await office.post("bob", model="no/such")
        await office.post("eve")
    told = [(who, what.status, what.code, what.model, what.user, what.items, what.tokens) for who, what in office.book]
    assert told == [
        (PEOPLE["alice"], 200, None, CLASSIC, "ann", 1, TOKENS),
        (PEOPLE["bob"], 400, 20012, "no/such", None, 1, 0),
        (None, 401, None, None, None, 0, 0),
    ]
    assert all(what.total_s > 0 for _, what in office.book)
