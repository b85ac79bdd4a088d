"""The import rules of pyproject.toml hold in the tree, and each of them would notice a violation."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Violation(NamedTuple):
    """An import of `target` planted in `module` of the package; without a target, a new module of no layer."""

    contract: str
    module: str
    target: str = ""

    @property
    def line(self) -> str:
        """The code to plant: inside a function, where an import counts as well."""
        return f"def planted():\n    import {self.target or 'sys'}\n"

    @property
    def reported(self) -> str:
        """The words by which the broken contract reports it."""
        name = "quartzite." + self.module.removesuffix(".py").replace("/", ".")
        return f"{name} -> {self.target} " if self.target else f"- {name}\n"


VIOLATIONS = (
    Violation("One direction of imports", "registry/card.py", "quartzite.batching.policy"),
    Violation("One direction of imports", "admission/gate.py", "quartzite.preprocess.cuts"),
    Violation("One direction of imports", "helpers.py"),
    Violation("Engines do not know each other", "engines/fake.py", "quartzite.engines.openvino.engine"),
    Violation("Nothing heavy at run time", "pipeline.py", "torch"),
    Violation("Only the OpenVINO engine knows OpenVINO", "batching/waiting.py", "openvino"),
    Violation("Only the registry knows the hub", "web/models.py", "huggingface_hub"),
    Violation("One direction of imports", "storage/keys.py", "quartzite.registry.card"),
    Violation("SQL stands in the storage only", "web/operations.py", "sqlalchemy"),
    Violation("SQL stands in the storage only", "cli/embed.py", "sqlite3"),
    Violation("Only the telemetry knows the library of the metrics", "batching/recovery.py", "prometheus_client"),
    Violation("Only the telemetry knows OpenTelemetry", "web/tracing.py", "opentelemetry"),
    Violation("Only the decoding of pictures knows Pillow", "preprocess/pictures.py", "PIL"),
    Violation("Only the fetching of pictures knows an HTTP client", "preprocess/pictures.py", "httpx2"),
    Violation("Below web nobody knows the web", "config/reading.py", "starlette"),
    Violation("Decisions and arithmetic are free of input and output", "postprocess/vectors.py", "asyncio"),
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in `folder`/src."""
    command = [Path(sys.executable).with_name("lint-imports"), "--config", folder / "pyproject.toml", "--no-cache"]
    environment = os.environ | {"COLUMNS": "400"}
    return subprocess.run(command, cwd=folder / "src", env=environment, capture_output=True, text=True, check=False)


def reports(output: str) -> dict[str, str]:
    """What import-linter says of each broken contract, by the contract's name."""
    _, _, broken = output.partition("Broken contracts")
    names = [contract["name"] for contract in contracts()]
    places = sorted((broken.find(f"\n{name}\n"), name) for name in names if f"\n{name}\n" in broken)
    ends = [place for place, _ in places[1:]] + [len(broken)]
    return {name: broken[place:end] for (place, name), end in zip(places, ends, strict=True)}


def contracts() -> list[dict[str, object]]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, object]] = table["tool"]["importlinter"]["contracts"]
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reports on a copy of the tree that holds every violation at once."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for violation in VIOLATIONS:
        with (folder / "src" / "quartzite" / violation.module).open("a", encoding="utf-8") as module:
            module.write(f"\n{violation.line}\n")
    result = lint(folder)
    assert result.returncode == 1, result.stderr
    return reports(result.stdout)


def test_the_tree_keeps_every_contract() -> None:
    """Nothing in the tree imports what it may not."""
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda violation: f"{violation.contract}: {violation.module}")
def test_a_planted_violation_is_reported(planted: dict[str, str], violation: Violation) -> None:
    """Each contract reports the import that was planted against it."""
    assert violation.reported in planted.get(violation.contract, "")


def test_every_contract_has_a_planted_violation() -> None:
    """No contract stands without the proof that it can break."""
    assert {contract["name"] for contract in contracts()} == {violation.contract for violation in VIOLATIONS}
