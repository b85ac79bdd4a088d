"""Limits and refusals of a whole service built from settings: a store that is away, a start that lets nobody in."""

from pathlib import Path

import msgspec
import pytest

import fake_models
from admin_service import AdminService, admin_service, admin_settings
from command_line import run
from quartzite.bootstrap import running
from quartzite.config import AccessSettings, LevelSettings, LimitSettings, ServerSettings, WhenDown
from quartzite.errors import StartFailure

KEY = "of-the-settings"


@pytest.mark.parametrize(("when_down", "statuses"), [("open", [200, 200, 429]), ("closed", [503, 503, 503])])
async def test_a_shared_store_that_is_away_is_counted_and_treated_as_the_settings_say(
    tmp_path: Path, when_down: WhenDown, statuses: list[int]
) -> None:
    """`open` goes on with limits of its own, `closed` refuses; the metric tells of either."""
    pytest.importorskip("limits")
    settings = msgspec.structs.replace(
        admin_settings(tmp_path, m="model"),
        access=AccessSettings(api_keys=(KEY,)),
        levels=(LevelSettings(level=0, requests_per_minute=2),),
        limits=LimitSettings(shared_url=f"unix://{tmp_path}/nobody", when_down=when_down),
    )
    async with admin_service(settings) as service:
        answers = [await service.embed(key=KEY) for _ in range(3)]
        assert [answer.status_code for answer in answers] == statuses
        failures = await _metric(service, "quartzite_limit_store_failures_total")
    assert failures >= 1
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code != 200)


async def test_a_start_for_others_is_refused_until_there_is_a_valid_key(tmp_path: Path) -> None:
    """An account is not enough, nor is a revoked key; `no_auth` or a valid key is."""
    settings = admin_settings(tmp_path, m="model")
    others = msgspec.structs.replace(settings, admin=type(settings.admin)(), server=ServerSettings(host="0.0.0.0"))
    where = ("--data-folder", settings.storage.data_folder)
    assert run("accounts", "create", "acme", *where).code == 0
    for words in ((), ("keys", "create", "acme"), ("keys", "revoke", "1")):
        assert not words or run(*words, *where).code == 0
        if words[:2] == ("keys", "create"):
            async with running(others, fake_models.SOURCE, guarded=True) as service:
                assert service.asks_for_keys
            continue
        with pytest.raises(StartFailure, match="there is no valid key to ask them for"):
            async with running(others, fake_models.SOURCE, guarded=True):
                pytest.fail("the service must not run")
    anyone = msgspec.structs.replace(others, server=ServerSettings(host="0.0.0.0", no_auth=True))
    async with running(anyone, fake_models.SOURCE, guarded=True) as service:
        assert not service.asks_for_keys


async def _metric(service: AdminService, name: str) -> float:
    page = (await service.client.get("/metrics")).text
    return float(next(line.split()[-1] for line in page.splitlines() if line.startswith(name)))
