"""The end of a whole server: what clients and load balancers see between the signal and the exit, and what is kept."""

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from held_server import HeldServer, embedding, held_server
from quartzite.storage.database import open_database
from quartzite.storage.ledger import Ledger


def _settings(folder: Path, grace_s: int) -> dict[str, dict[str, object]]:
    return {"server": {"shutdown_grace_s": grace_s}, "storage": {"url": f"sqlite:///{folder}/ledger.db"}}


@contextmanager
def _with_one_running(folder: Path, grace_s: int, *more: str) -> Iterator[tuple[HeldServer, Future[httpx.Response]]]:
    """Yield a server in whose engine a request is held, and that request's answer to come."""
    with (
        held_server(folder, _settings(folder, grace_s), *more) as server,
        ThreadPoolExecutor(1) as thread,
        httpx.Client() as client,
    ):
        running = thread.submit(embedding, server, client)
        try:
            assert server.said() == "entered"
            yield server, running
        finally:
            server.process.kill()


def _recorded(folder: Path, *answers: httpx.Response) -> list[int | None]:
    """Return the statuses that the ledger has for `answers`."""
    with open_database(f"sqlite:///{folder}/ledger.db") as database:
        rows = [Ledger(database).trace(answer.headers["x-siliconcloud-trace-id"]) for answer in answers]
    return [row and row.status for row in rows]


def test_while_running_requests_end_new_ones_are_told_503(tmp_path: Path) -> None:
    """After SIGTERM /ready is red, new requests on new and on kept connections are 503, and the running one is 200."""
    with _with_one_running(tmp_path, grace_s=60) as (server, running), httpx.Client() as kept, httpx.Client() as fresh:
        assert kept.get(f"{server.url}/ready").status_code == 200
        server.stop()
        assert server.said() == "Stopping: 1 running request may end within 60 s. A second signal stops at once."
        refused = embedding(server, kept), embedding(server, fresh)
        ready, health = fresh.get(f"{server.url}/ready"), fresh.get(f"{server.url}/health")
        server.release()
        answered = running.result()
        assert server.said() == "Stopped."
        assert server.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            fresh.get(f"{server.url}/ready")
    for answer in refused:
        assert answer.status_code == 503
        assert answer.content == (
            b'{"code":50505,"message":"Model service is stopping. Please try again later.","data":"request"}'
        )
        assert answer.headers["retry-after"] == "1"
    assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
    assert health.status_code == 200
    assert answered.status_code == 200
    assert {answer.headers["connection"] for answer in (*refused, ready, health, answered)} == {"close"}
    assert _recorded(tmp_path, answered, *refused) == [200, 503, 503]


def test_what_outlasts_the_grace_is_told_503_and_recorded(tmp_path: Path) -> None:
    """When the grace is over, a request still in the engine is answered, the ledger has it, and the exit code is 0."""
    with _with_one_running(tmp_path, grace_s=0) as (server, running):
        server.stop()
        answer = running.result()
        assert server.said().startswith("Stopping: 1 running request")
        assert server.said() == "Stopped."
        assert server.process.wait(30) == 0
    assert (answer.status_code, answer.json()["code"]) == (503, 50505)
    assert _recorded(tmp_path, answer) == [503]


def test_an_engine_that_cannot_be_stopped_does_not_keep_the_process(tmp_path: Path) -> None:
    """A thread that hangs is waited for no longer than the last call; the request in it is answered and recorded."""
    with _with_one_running(tmp_path, 0, "hang") as (server, running):
        server.stop()
        answer = running.result()
        assert server.process.wait(30) == 1
        assert "Something hangs that cannot be cancelled" in server.logged()
    assert answer.status_code == 503
    assert _recorded(tmp_path, answer) == [503]


def test_a_server_without_requests_stops_at_once(tmp_path: Path) -> None:
    """Connections that are only kept open hold nobody up, whatever the grace."""
    with held_server(tmp_path, _settings(tmp_path, 3600)) as server, httpx.Client() as idle:
        assert idle.get(f"{server.url}/ready").status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.said() == "Stopped."
        assert server.process.wait(30) == 0
