"""What an optional part needs is told with a command that installs that and nothing else."""

import importlib
import sys
from collections.abc import Callable

import pytest

from quartzite.admission.shared import SharedWindows
from quartzite.config import LimitSettings
from quartzite.errors import MissingExtra
from quartzite.storage.database import open_database

Use = Callable[[], object]

PARTS: dict[str, tuple[str, Use, str, str]] = {
    "shared limits": (
        "limits",
        lambda: SharedWindows(LimitSettings(shared_url="redis://localhost"), lambda: 0.0),
        "limits.shared_url",
        "'limits>=5.6' 'redis>=6'",
    ),
    "PostgreSQL": (
        "psycopg",
        lambda: open_database("postgresql://me@/quartz"),
        "a database of PostgreSQL",
        "'psycopg[binary]>=3.2'",
    ),
    "spans": (
        "opentelemetry",
        lambda: importlib.import_module("quartzite.telemetry.spans"),
        "telemetry.spans",
        "'opentelemetry-exporter-otlp-proto-http>=1.30' 'opentelemetry-sdk>=1.30'",
    ),
}


@pytest.mark.parametrize(("library", "use", "what", "wanted"), PARTS.values(), ids=PARTS.keys())
def test_the_command_names_the_python_that_runs_and_just_what_is_missing(
    library: str, use: Use, what: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its library each part is refused with what to run; pyproject.toml says what that is."""
    for module in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "quartzite.telemetry.spans", raising=False)
    with pytest.raises(MissingExtra) as refused:
        use()
    told, _, command = str(refused.value).partition("; run: ")
    python, _, installed = command.partition(" -m pip install ")
    assert told == f"{what} needs libraries that are not installed"
    assert python == sys.executable
    assert " ".join(sorted(installed.split())) == wanted
