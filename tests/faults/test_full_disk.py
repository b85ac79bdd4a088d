"""A disk that is full: nothing is answered that was not recorded, and the service goes on when there is room again."""

import resource
from pathlib import Path

import httpx

from held_server import embedding, held_server
from load import ledger
from quartzite.storage.database import open_database

BLOCKS = 1000
"""Of 512 bytes: the tables fit into a file of that size, and the rows of some dozens of requests beside them."""


def test_while_the_disk_is_full_requests_are_told_503_and_none_is_lost(tmp_path: Path) -> None:
    """The first request that finds no room for its row is 503; each 200 is in the ledger, and 200s come again later."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    open_database(url).close()
    with held_server(tmp_path, {"storage": {"url": url}}, "slow", blocks=BLOCKS) as server, httpx.Client() as client:
        answers = [embedding(server, client)]
        while answers[-1].status_code == 200:
            assert len(answers) < 500
            answers.append(embedding(server, client))
        assert answers[-1].json()["message"].startswith("The request could not be recorded")
        assert client.get(f"{server.url}/ready").status_code == 200
        _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
        answers.append(embedding(server, client))
        assert answers[-1].status_code == 200
        assert "a request could not be recorded" in server.logged()
        server.stop()
        assert server.process.wait(30) == 0
    given = {answer.headers["x-siliconcloud-trace-id"]: answer.status_code for answer in answers}
    rows = ledger(tmp_path / "ledger.db")
    assert {trace_id for trace_id, status in given.items() if status == 200} == rows.keys()
