"""Where figures come from: machine, date and commit, kept beside each model's workloads and servers.

A results file may be measured in parts, on several machines: `told_apart` says of every part where it is from, also in
files with one machine for all.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from subjects import ROOT, machine

Machine = dict[str, str]
Origin = dict[str, Any]
"""`machine` as `subjects.machine` describes it, `date` and `commit`."""


def here() -> Origin:
    """Return the origin of what is measured now."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "commit": commit}


def told_apart(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return `results` with an origin for each workload of `measured` and a machine for each of `servers`.

    `origins` has a list of them by model and workload: rounds may have been added at a later commit.
    """
    told: dict[str, Any] = json.loads(json.dumps({"measured": {}, "servers": {}, "origins": {}} | dict(results)))
    whole = {fact: told.pop(fact) for fact in ("machine", "date", "commit") if fact in told}
    for model, workloads in told["measured"].items():
        known = told["origins"].setdefault(model, {})
        for workload in workloads:
            known.setdefault(workload, [whole])
    for servers in told["servers"].values():
        for facts in servers.values():
            facts.setdefault("machine", whole.get("machine"))
    return told


def is_same(one: Machine, other: Machine) -> bool:
    """Return whether figures of both may stand in one table: those of the same processor may."""
    return all(one.get(fact) == other.get(fact) for fact in ("processor", "flags"))


def by_machine(results: Mapping[str, Any], model: str) -> Iterator[tuple[Machine, dict[str, Any], dict[str, Any]]]:
    """Yield each machine a model was measured on, with the workloads and the servers' facts that come from there."""
    workloads, origins = results["measured"][model], results["origins"][model]
    for _, names in groupby(sorted(workloads, key=lambda name: _key(origins[name])), lambda name: _key(origins[name])):
        measured = list(names)
        found: Machine = origins[measured[0]][-1]["machine"]
        servers = results["servers"].get(model, {})
        from_there = {name: facts for name, facts in servers.items() if is_same(facts["machine"], found)}
        yield found, {name: workloads[name] for name in workloads if name in measured}, from_there


def _key(origins: Sequence[Origin]) -> tuple[str, str]:
    found = origins[-1]["machine"]
    return found.get("processor", ""), found.get("flags", "")


def described(machine: Machine) -> str:
    """Return a machine in words."""
    return "; ".join(machine.values())


def moments(origins: Mapping[str, Sequence[Origin]], workloads: Sequence[str]) -> str:
    """Return when and at which commits `workloads` were measured, each moment once."""
    known = {(origin["date"], origin["commit"]) for name in workloads for origin in origins[name]}
    return ", ".join(f"{date} at {commit}" for date, commit in sorted(known))


def dates(origins: Mapping[str, Sequence[Origin]], workloads: Sequence[str]) -> set[str]:
    """Return the days on which `workloads` were measured."""
    return {origin["date"] for name in workloads for origin in origins[name]}
