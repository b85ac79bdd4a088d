"""Fixtures shared by all tests; a service is imported only by the tests that ask for one."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import httpx
import hypothesis
import pytest

if TYPE_CHECKING:
    from serving import FakeService, RequestLog

# A busy machine is no fault of the code: how long one example takes decides nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
async def service() -> "AsyncIterator[FakeService]":
    """A running service on the fake engine, with the settings as they come."""
    from serving import fake_service

    async with fake_service() as running:
        yield running


@pytest.fixture
async def client(service: "FakeService") -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of `service`, in process."""
    async with service.client() as calling:
        yield calling


@pytest.fixture
async def url(service: "FakeService") -> AsyncIterator[httpx.URL]:
    """The address of `service` on a real socket."""
    from serving import listening

    async with listening(service.app) as address:
        yield address


@pytest.fixture
def request_log() -> "Iterator[RequestLog]":
    """What the service logs of its requests."""
    from serving import RequestLog

    log, logger = RequestLog(), logging.getLogger("quartzite.web")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)
