"""One server under test: started, asked for its first vector, frozen while others are measured, and accounted for."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client import Connection, post, run
from workloads import MODEL, PATH

FIRST = post(PATH, {"model": MODEL, "input": "Hello, world!", "encoding_format": "float"})
PATIENCE_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server ended by itself or gave no first vector; the message has the end of its log."""


@dataclass(frozen=True)
class Command:
    """How a server is started on a port."""

    arguments: Sequence[str | Path]
    environment: Mapping[str, str]


STILL = 0.05
"""Processor seconds in a second, below which a server has nothing left to prepare."""


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A process with its children, in a session of their own."""

    def __init__(self, command: Command, port: int, log: Path) -> None:
        self.port = port
        self.start_s = 0.0
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Bytecode is kept and nothing is looked up at a hub: a start is what users have from the second on.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **command.environment}
        self._begun = time.perf_counter()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [str(argument) for argument in command.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread is at work meanwhile
            )

    def wait_for_vector(self) -> list[float]:
        """Return the first vector and note in `start_s` how long after the start of the process it came."""
        vector = run(self._first_vector())
        self.start_s = time.perf_counter() - self._begun
        return vector

    async def _first_vector(self) -> list[float]:
        connection = Connection(self.port)
        while time.perf_counter() - self._begun < PATIENCE_S:
            self.check()
            answer = await connection.send(FIRST)
            if answer.status == 200:
                connection.close()
                vector: list[float] = json.loads(answer.body)["data"][0]["embedding"]
                return vector
            await asyncio.sleep(0.01)
        raise ServerFailed(f"gave no vector in {PATIENCE_S:.0f} s: {self._log_tail()}")

    def wait_for_port(self) -> None:
        """Return when the server accepts connections."""
        while time.perf_counter() - self._begun < PATIENCE_S:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise ServerFailed(f"accepted no connection in {PATIENCE_S:.0f} s: {self._log_tail()}")

    def check(self) -> None:
        """Raise ServerFailed if the server has ended."""
        if self._process.poll() is not None:
            raise ServerFailed(f"ended with {self._process.returncode}: {self._log_tail()}")

    def _log_tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-1500:]

    def freeze(self) -> None:
        """Take the processor away from the server, so that it cannot disturb the measuring of another."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        while any(_stat(pid)[:1] not in ([], ["T"]) for pid in self._pids()):
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> int:
        """Ask the server to end and return its exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End the server at once, without a word."""
        self._process.kill()

    def stop(self) -> None:
        """End the server and its children: asked first, killed after ten seconds."""
        if self._process.poll() is None:
            self.thaw()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        while list(self._pids()):
            os.killpg(self._process.pid, signal.SIGKILL)
            time.sleep(0.01)
        self._process.wait()

    def cpu_s(self) -> float:
        """Return the seconds of processor time that all its processes have taken so far."""
        return cpu_s(self._pids())

    def memory_mib(self) -> dict[str, float]:
        """Return the sums over its processes: `peak` resident, `resident` and `anonymous` now, in MiB."""
        told = {"VmHWM": 0, "VmRSS": 0, "RssAnon": 0}
        for pid in self._pids():
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            for name, _, value in (line.partition(":") for line in lines):
                if name in told:
                    told[name] += int(value.split()[0])
        return {"peak": told["VmHWM"] / 1024, "resident": told["VmRSS"] / 1024, "anonymous": told["RssAnon"] / 1024}

    def _pids(self) -> Iterator[int]:
        """Yield the processes of the server's session."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields and int(fields[3]) == self._process.pid and fields[0] != "Z":
                    yield int(entry.name)


class OthersWatch:
    """Measures, over a `with`, which share of the processors went to neither what is measured nor this process."""

    share = 0.0

    def __init__(self, measured_cpu_s: Callable[[], float]) -> None:
        self._measured_cpu_s = measured_cpu_s

    def __enter__(self) -> "OthersWatch":
        self._begun, self._others = time.perf_counter(), self._others_s()
        return self

    def __exit__(self, *failure: object) -> None:
        cores = len(os.sched_getaffinity(0))
        self.share = max(0.0, self._others_s() - self._others) / (time.perf_counter() - self._begun) / cores

    def _others_s(self) -> float:
        # user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait, what the host took included.
        times = list(map(int, Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9]))
        busy = (sum(times) - times[3] - times[4]) / TICKS_PER_S
        return busy - self._measured_cpu_s() - time.process_time()


def wait_until_still(busy_s: Callable[[], float], sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until a server's processor time `busy_s` stands: what it prepares after its first answer is no one's turn.

    A minute at most.
    """
    for _ in range(60):
        before = busy_s()
        sleep(1)
        if busy_s() - before < STILL:
            return


def _die_with_parent() -> None:
    """Have the kernel kill this process when the bench has ended, even if that was killed itself (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def cpu_s(pids: Iterable[int]) -> float:
    """Return the seconds of processor time that processes and their ended children have taken."""
    # After the name, which may hold anything, come state, ppid and so on; utime to cstime are fields 14 to 17.
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:15]) / TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
