"""More requests than can be answered, and the end of the process under them; the long form is `make bench-load`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client import post, run
from held_server import MODEL, HeldServer, held_server
from load import Arrivals, Told, disagreements, ledger, missing, poisson

REQUESTS = [post("/v1/embeddings", {"model": MODEL, "input": f"text {number}"}) for number in range(100)]
PER_SECOND = 600.0
"""Three times what the slow engine does."""


@contextmanager
def _slow_server(folder: Path) -> Iterator[HeldServer]:
    """Run a server that answers 200 requests a second and lets 20 wait."""
    settings = {"storage": {"url": f"sqlite:///{folder}/ledger.db"}, "queue": {"max_requests": 20}}
    with held_server(folder, settings, "slow") as server:
        yield server


def _resident_mib(server: HeldServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_over_capacity_requests_are_answered_or_refused_and_the_ledger_agrees(tmp_path: Path) -> None:
    """With three times too many requests each gets 200 or 503, by trace id just what the ledger has; memory is flat."""
    with _slow_server(tmp_path) as server:
        first = run(poisson(server.port, REQUESTS, PER_SECOND, seconds=0.5))
        before = _resident_mib(server)
        load = run(poisson(server.port, REQUESTS, PER_SECOND, seconds=2.0))
        grown = _resident_mib(server) - before
        server.stop()
        assert server.process.wait(30) == 0
    assert load.statuses().keys() == {200, 503}
    assert disagreements(first.told + load.told, ledger(tmp_path / "ledger.db")) == []
    assert load.waits()[-1] < 10
    assert grown < 20


def test_what_was_answered_before_a_kill_is_in_the_ledger(tmp_path: Path) -> None:
    """After kill -9 in the middle of the load, every 200 that a client saw is there."""
    with _slow_server(tmp_path) as server:

        def killed(load: Arrivals) -> bool:
            if len(load.told) > 200:
                server.process.kill()
            return bool(load.told) and load.told[-1].status == 0

        load = run(poisson(server.port, REQUESTS, PER_SECOND, 30.0, killed))
    assert load.statuses().keys() >= {0, 200}
    assert missing(load.told, ledger(tmp_path / "ledger.db")) == []


def test_what_a_ledger_lacks_or_has_otherwise_is_found() -> None:
    """A row too few, a row too many and another status are each told; requests that were lost say nothing."""
    load = Arrivals()
    load.told = [Told(200, 0.1, "ti_1"), Told(503, 0.1, "ti_2"), Told(200, 0.1, "ti_3"), Told(0, 0.1, "")]
    rows = {"ti_1": 200, "ti_2": 200, "ti_4": 200}
    assert disagreements(load.told, rows) == ["ti_2", "ti_3", "ti_4"]
    assert missing(load.told, rows) == ["ti_3"]
