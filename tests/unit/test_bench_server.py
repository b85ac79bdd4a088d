"""Servers under test: started, frozen, accounted for and ended, on real processes."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import closed, run
from server import FIRST, Command, OthersWatch, Server, ServerFailed, _stat, free_port, wait_until_still

ANSWERING = """
import http.server, json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"data": [{"embedding": [1.0, 2.0]}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        sum(i for i in range(3_000_000))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    server = Server(Command([sys.executable, "-c", ANSWERING, str(port)], {}), port, tmp_path / "log")
    yield server
    server.stop()


def is_running(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


def test_a_server_is_asked_until_it_answers(server: Server) -> None:
    """The first vector comes as soon as the port is open, and how long that took is known."""
    assert server.wait_for_vector() == [1.0, 2.0]
    assert server.start_s > 0


def test_children_are_counted_and_ended(server: Server, tmp_path: Path) -> None:
    """Memory and processor time include the child's and the work done; stopping ends the child too."""
    server.wait_for_vector()
    child = int((tmp_path / "log").read_text().split()[0])
    status = Path(f"/proc/{child}/status").read_text().splitlines()
    alone_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert server.memory_mib()["peak"] > 1.5 * alone_kib / 1024
    assert server.cpu_s() > 0
    server.stop()
    assert not is_running(child)


async def test_a_frozen_server_answers_when_it_is_thawed(server: Server) -> None:
    """While frozen the processes are stopped, and requests of that time are answered later."""
    await server._first_vector()
    server.freeze()
    states = {_stat(pid)[0] for pid in server._pids()}
    loading = asyncio.create_task(closed(server.port, [FIRST], clients=1))
    server.thaw()
    assert states == {"T"}
    assert (await loading).statuses() == {200: 1}


def test_work_of_others_is_noticed(server: Server) -> None:
    """What neither the server nor this process computes counts as others', as a share of all processors."""
    server.wait_for_vector()
    with OthersWatch(server.cpu_s) as watch:
        subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    assert watch.share > 0.5 / len(os.sched_getaffinity(0))


def test_work_of_the_server_is_not_others(server: Server) -> None:
    """Of two watches the one that knows the server's processor time finds less that is others'."""
    server.wait_for_vector()
    with OthersWatch(lambda: 0.0) as blind, OthersWatch(server.cpu_s) as watch:
        run(closed(server.port, [FIRST], clients=1))
    assert watch.share < blind.share


def test_servers_end_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    """A bench that has no chance to end its servers does not leave them behind, frozen or not."""
    script = (
        "import sys, os, signal, pathlib, server\n"
        "other = server.Server(server.Command(['sleep', '600'], {}), 1, pathlib.Path(sys.argv[1]))\n"
        "other.freeze()\n"
        "print(*other._pids(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    bench = subprocess.run(command, cwd=benchmarks, capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 10
    while is_running(int(bench.stdout)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not is_running(int(bench.stdout))


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The message of the failure has the exit code and the end of the log."""
    command = Command([sys.executable, "-c", "raise SystemExit('no such model')"], {})
    server = Server(command, free_port(), tmp_path / "log")
    with pytest.raises(ServerFailed, match=r"(?s)ended with 1.*no such model"):
        server.wait_for_vector()
    server.stop()


def test_servers_keep_their_bytecode(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting of this process that slows every start is not handed on."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    script = "import os; raise SystemExit(repr(os.environ.get('PYTHONDONTWRITEBYTECODE')))"
    other = Server(Command([sys.executable, "-c", script], {}), free_port(), tmp_path / "other")
    with pytest.raises(ServerFailed, match="None"):
        other.wait_for_vector()
    assert os.environ["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize(("busy", "seconds"), [([0.0, 0.0], 1), ([0.0, 0.9, 0.9, 1.2, 1.2, 1.21], 3)])
def test_a_server_is_left_alone_until_it_is_still(busy: list[float], seconds: int) -> None:
    """What it compiles after its first answer is not measured as its answers."""
    read, slept = iter(busy), list[float]()
    wait_until_still(lambda: next(read), slept.append)
    assert (sum(slept), next(read, None)) == (seconds, None)


def test_a_server_that_never_rests_is_waited_for_a_minute() -> None:
    """Then it is measured as it is."""
    read, slept = itertools.count(), list[float]()
    wait_until_still(lambda: float(next(read)), slept.append)
    assert sum(slept) == 60
