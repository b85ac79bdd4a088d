"""Twice what the server can do for a minute, and the same with kill -9 in the middle: what clients see, what is kept.

Requests arrive when they are due, whatever was answered before (Poisson, with a fixed seed), and waits count from then:
a server that stalls cannot hide behind requests that nobody sent.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Connection, closed, percentile, run
from guarded import Site, guarded_site
from server import Server, free_port
from subjects import machine
from texts import english

RESULTS = Path(__file__).parent / "results"
SEED = 11
ALLOWED = {200, 429, 503, 504}
DEADLINE_S = 60.0
KEPT = 0.6
"""What must still be answered in a second under overload, as a share of what is answered at saturation: the refusals,
and the client that sends twice as much, take their time of the same cores."""
GROWTH = 0.05
"""How much more memory the server may have at the end than after the first third of the load, as a share of it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told: status 0 for a lost connection; seconds from the moment the request was due."""

    status: int
    seconds: float
    trace_id: str


@dataclass
class Arrivals:
    """What came of an open-loop load, and by how much its sender was late at most of the times (p99)."""

    told: list[Told] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0
    wall_s: float = 0.0

    def statuses(self) -> dict[int, int]:
        """Return how many requests were told which status."""
        return dict(sorted(Counter(one.status for one in self.told).items()))

    def waits(self) -> list[float]:
        """Return the seconds of the requests that were answered 200, shortest first."""
        return sorted(one.seconds for one in self.told if one.status == 200)


class Traced(Connection):
    """A connection that remembers the trace id of its last answer."""

    trace_id = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Hear of a header."""
        if name.lower() == b"x-siliconcloud-trace-id":
            self.trace_id = value.decode()


async def poisson(
    port: int,
    requests: Sequence[bytes],
    per_second: float,
    seconds: float,
    ended: Callable[[Arrivals], bool] = lambda _: False,
) -> Arrivals:
    """Send requests at random moments, `per_second` of them on average, until `seconds` are over or `ended` says so.

    Each has a connection to itself while it runs. Returns when the last one has been answered or lost.
    """
    moments, idle, arrivals = random.Random(SEED), list[Traced](), Arrivals()
    begun, cpu, due = time.perf_counter(), time.process_time(), time.perf_counter()

    async def one(request: bytes, due: float) -> None:
        connection = idle.pop() if idle else Traced(port)
        arrivals.lateness_s.append(time.perf_counter() - due)
        connection.trace_id = ""
        answer = await connection.send(request, due)
        arrivals.told.append(Told(answer.status, answer.seconds, connection.trace_id))
        idle.append(connection)

    async with asyncio.TaskGroup() as tasks:
        for turn in range(sys.maxsize):
            due += moments.expovariate(per_second)
            if due >= begun + seconds or ended(arrivals):
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(requests[turn % len(requests)], due))
    for connection in idle:
        connection.close()
    arrivals.wall_s, arrivals.client_cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return arrivals


def ledger(file: Path) -> dict[str, int]:
    """Return the status of every row in the ledger of a server, by trace id."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return dict(connection.execute("SELECT trace_id, status FROM requests"))


def disagreements(told: Sequence[Told], rows: dict[str, int]) -> list[str]:
    """Return the trace ids of which clients and ledger say different things, or only one of them says anything."""
    seen = {one.trace_id: one.status for one in told if one.status}
    return sorted(trace_id for trace_id in seen.keys() | rows.keys() if seen.get(trace_id) != rows.get(trace_id))


def missing(told: Sequence[Told], rows: dict[str, int]) -> list[str]:
    """Return the trace ids of the answers 200 that the ledger does not have."""
    return [one.trace_id for one in told if one.status == 200 and rows.get(one.trace_id) != 200]


def main() -> None:
    """Run both loads, write the results, and fail when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=2.0, help="how many times what the server can do")
    parser.add_argument("--clients", type=int, default=64, help="connections that measure what it can do")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    measured: dict[str, Any] = {"machine": machine(), "times": arguments.times}
    for name, load in (("overload", overload), ("kill", kill)):
        with _server() as (server, site):
            measured[name] = load(server, site, arguments)
        print(name, json.dumps(measured[name], indent=1), file=sys.stderr, flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "load.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (arguments.results / "load.md").write_text(page(measured), encoding="utf-8")
    print(page(measured))
    if broken := measured["overload"]["broken"] + measured["kill"]["broken"]:
        raise SystemExit("\n".join(broken))


@contextlib.contextmanager
def _server() -> Iterator[tuple[Server, Site]]:
    with tempfile.TemporaryDirectory() as folder:
        site, port = guarded_site(Path(folder)), free_port()
        server = Server(site.command(port), port, Path(folder) / "log")
        try:
            server.wait_for_port()
            yield server, site
        finally:
            server.stop()


def _saturation(server: Server, site: Site, clients: int, seconds: float = 8.0) -> tuple[list[bytes], float]:
    """Return requests, and how many of them the server answers in a second when it always has some."""
    requests = [site.request(text[:80]) for text in english()[:1000]] * 50
    run(closed(server.port, requests, clients, 2.0))
    return requests, run(closed(server.port, requests, clients, seconds)).rate()


def overload(server: Server, site: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the server with more than it can do, and say what came of it."""
    requests, rate = _saturation(server, site, arguments.clients)
    before = ledger(site.file)
    memory: list[tuple[float, float]] = []
    begun = time.perf_counter()

    async def loaded() -> Arrivals:
        watching = asyncio.create_task(_watch(server, memory))
        try:
            return await poisson(server.port, requests, arguments.times * rate, arguments.seconds)
        finally:
            watching.cancel()

    arrivals = run(loaded())
    cpu = server.cpu_s()
    code = server.end()
    rows = {trace_id: status for trace_id, status in ledger(site.file).items() if trace_id not in before}
    early, late = _early_and_late([(at - begun, mib) for at, mib in memory], arguments.seconds)
    found = _figures(arrivals, rate) | {
        "memory_early_mib": early,
        "memory_late_mib": late,
        "server_cpu_s": round(cpu, 1),
        "ledger_rows": len(rows),
        "ledger_disagrees": len(disagreements(arrivals.told, rows)),
        "exit_code": code,
    }
    wrong = {status: count for status, count in arrivals.statuses().items() if status not in ALLOWED}
    goodput = found["answered_per_second"] / rate
    checks = {
        f"at {arguments.times:g} times the load only {goodput:.0%} of what it can do was answered": goodput >= KEPT,
        f"answers outside of {sorted(ALLOWED)}: {wrong}": not wrong,
        f"memory grew from {early} to {late} MiB": late <= early * (1 + GROWTH),
        f"the 99th percentile of answers is {found['p99_s']} s": found["p99_s"] <= DEADLINE_S,
        f"{found['ledger_disagrees']} trace ids on which ledger and clients disagree": not found["ledger_disagrees"],
        f"the server ended with {code}": code == 0,
    }
    return found | {"broken": [fault for fault, kept in checks.items() if not kept]}


def kill(server: Server, site: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill the server in the middle of the same load, and look for every 200 that a client saw."""
    requests, rate = _saturation(server, site, arguments.clients)
    half = arguments.seconds / 2

    async def killed() -> Arrivals:
        asyncio.get_running_loop().call_later(half, server.kill)
        return await poisson(
            server.port,
            requests,
            arguments.times * rate,
            arguments.seconds,
            lambda load: bool(load.told) and _lost(load),
        )

    arrivals = run(killed())
    rows = ledger(site.file)
    found = _figures(arrivals, rate) | {"missing": len(missing(arrivals.told, rows))}
    broken = [f"{found['missing']} answers 200 are not in the ledger"] if found["missing"] else []
    if not found["statuses"].get(0):
        broken.append("the server was not killed under load: no connection was lost")
    return found | {"broken": broken}


def _lost(load: Arrivals) -> bool:
    return load.told[-1].status == 0


async def _watch(server: Server, memory: list[tuple[float, float]]) -> None:
    while True:
        memory.append((time.perf_counter(), server.memory_mib()["resident"]))
        await asyncio.sleep(0.5)


def _early_and_late(memory: Sequence[tuple[float, float]], seconds: float) -> tuple[float, float]:
    """Return the most memory in the second sixth of the time, when everything has been in use, and in the last."""

    def most(begin: float, end: float) -> float:
        return round(max(mib for at, mib in memory if begin * seconds <= at <= end * seconds), 1)

    return most(1 / 6, 1 / 3), most(5 / 6, 1)


def _figures(arrivals: Arrivals, rate: float) -> dict[str, Any]:
    waits = arrivals.waits()
    return {
        "saturation_per_second": round(rate),
        "sent": len(arrivals.told),
        "sent_per_second": round(len(arrivals.told) / arrivals.wall_s),
        "answered_per_second": round(len(waits) / arrivals.wall_s),
        "statuses": arrivals.statuses(),
        "median_s": round(percentile(waits, 0.5), 3),
        "p99_s": round(percentile(waits, 0.99), 3),
        "longest_s": round(waits[-1], 3),
        "sender_late_p99_s": round(percentile(sorted(arrivals.lateness_s), 0.99), 3),
        "client_cpu_s": round(arrivals.client_cpu_s, 1),
        "wall_s": round(arrivals.wall_s, 1),
    }


def page(measured: dict[str, Any]) -> str:
    """Return the results in words."""
    over, killed = measured["overload"], measured["kill"]
    told = ", ".join(f"{count:,} x {status}" for status, count in over["statuses"].items())
    return f"""# Under twice the load

MiniLM with keys, limits and a ledger in SQLite, one short text a request; server and client share
{measured["machine"]["processor"]} ({measured["machine"]["system"]}). Poisson arrivals, waits from the moment a request
was due; written by `make bench-load`.

| figure | {over["wall_s"]:.0f} s at {measured["times"]:g} times saturation | the same, killed half way |
|---|--:|--:|
| saturation, requests/s | {over["saturation_per_second"]:,} | {killed["saturation_per_second"]:,} |
| sent, requests/s | {over["sent_per_second"]:,} | {killed["sent_per_second"]:,} |
| answered 200, requests/s | {_of_saturation(over)} | |
| answered 200 | {over["statuses"].get(200, 0):,} | {killed["statuses"].get(200, 0):,} |
| refused 503 | {over["statuses"].get(503, 0):,} | {killed["statuses"].get(503, 0):,} |
| lost connections | {over["statuses"].get(0, 0):,} | {killed["statuses"].get(0, 0):,} |
| wait for a 200: median / p99 / longest | {_three(over)} | {_three(killed)} |
| the sender was late (p99) | {over["sender_late_p99_s"]:.3f} s | {killed["sender_late_p99_s"]:.3f} s |
| memory early / at the end | {over["memory_early_mib"]:,} / {over["memory_late_mib"]:,} MiB | |
| ledger rows / disagreeing with the clients | {over["ledger_rows"]:,} / {over["ledger_disagrees"]} | |
| answers 200 that are not in the ledger | 0 | {killed["missing"]} |

The client took {over["client_cpu_s"] / over["wall_s"]:.0%} of one of the two cores.
All answers of the first load: {told}. Promises broken: {len(over["broken"]) + len(killed["broken"])}.
"""


def _of_saturation(found: dict[str, Any]) -> str:
    share = found["answered_per_second"] / found["saturation_per_second"]
    return f"{found['answered_per_second']:,} ({share:.0%} of saturation)"


def _three(found: dict[str, Any]) -> str:
    return f"{found['median_s']:.2f} / {found['p99_s']:.2f} / {found['longest_s']:.2f} s"


if __name__ == "__main__":
    main()
