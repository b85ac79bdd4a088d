"""The command line starts without what only its work needs."""

import subprocess
import sys

import pytest

HEAVY = (
    *("openvino", "numpy", "tokenizers", "huggingface_hub", "starlette", "uvicorn", "rich", "pydantic", "asyncio"),
    *("sqlalchemy", "alembic", "filelock"),
)


def imported_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `code`."""
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["models", "check", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Help is printed without loading an engine, a tokenizer, the hub's library or the web."""
    code = f"from quartzite.cli.main import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert not imported_by(code) & set(HEAVY)


def test_wrong_settings_are_told_before_anything_heavy_is_loaded() -> None:
    """A start with wrong settings fails without having loaded the engine."""
    code = "from quartzite.cli.main import main\ntry: main(['serve', '--port', '-1'])\nexcept SystemExit: pass"
    assert not imported_by(code) & set(HEAVY)


def test_serving_loads_no_hub_library() -> None:
    """The parts of a server with a model on disk are loaded without the hub's library, which adds to the start."""
    loaded = imported_by("import quartzite.bootstrap, quartzite.cli.server, quartzite.web.app")
    assert "huggingface_hub" not in loaded
    assert "starlette" in loaded


def test_serving_loads_no_opentelemetry_unless_spans_are_wanted() -> None:
    """The parts of a server that sends no spans do without the library, which is an extra."""
    loaded = imported_by("import quartzite.bootstrap, quartzite.cli.server, quartzite.web.app")
    assert not [name for name in loaded if name.startswith("opentelemetry")]
    assert "quartzite.web.tracing" in loaded
