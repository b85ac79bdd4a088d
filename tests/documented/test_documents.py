"""What the code offers is documented, and what the documents name exists."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from quartzite.cli.main import app
from quartzite.config import explain
from quartzite.errors import WIRE, StartFailure

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(command: Any, path: str = "quartzite") -> list[str]:
    """Return the paths of all commands below `command` that do something."""
    children = getattr(command, "commands", {})
    return [one for word, child in children.items() for one in commands(child, f"{path} {word}")] or [path]


@pytest.fixture
def make_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes the generated pages."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_docs

    return make_docs


@pytest.mark.parametrize("setting", tuple(explain()), ids=lambda setting: setting.path)
def test_every_setting_is_documented(setting: Any) -> None:
    """The page of settings explains each of them."""
    assert setting.description
    assert f"| `{setting.path.rpartition('.')[2]}` |" in text("docs/settings.md")


@pytest.mark.parametrize("kind", [*WIRE, *StartFailure.__subclasses__()])
def test_every_failure_is_documented(kind: type) -> None:
    """The page of errors explains each of them."""
    assert f"| {kind.__name__} |" in text("docs/errors.md")


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_every_command_is_documented(command: str) -> None:
    """The page of the command line explains each command."""
    assert f"## `{command}" in text("docs/cli.md")


def test_every_failure_of_a_request_has_an_example(make_docs: ModuleType) -> None:
    """The page of errors shows a body for each of them."""
    assert {type(example) for example in make_docs.EXAMPLES} == set(WIRE)


def test_generated_pages_are_current() -> None:
    """The committed pages are those that the code gives now."""
    subprocess.run([sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], check=True)


def test_the_openapi_document_of_the_repository_is_the_one_that_is_served(make_docs: ModuleType) -> None:
    """It is no page for people, but is made with them: it was once forgotten, and went out of date unseen."""
    assert text("docs/openapi.json") == make_docs.openapi_page()


def test_drift_of_a_generated_page_fails_the_check(
    make_docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that no longer says what the code says is named, and the check fails."""
    monkeypatch.setattr(make_docs, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_docs.py"])
    make_docs.main()
    page = tmp_path / "settings.md"
    page.write_text(page.read_text(encoding="utf-8").replace("8000", "8001"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_docs.py", "--check"])
    with pytest.raises(SystemExit, match=r"settings\.md no longer"):
        make_docs.main()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link of a document names a file that exists."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_verbs_exist(document: Path) -> None:
    """Each `make` verb that a document names is one of the Makefile, and each of those is listed by `make help`."""
    makefile = text("Makefile")
    verbs = set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE))
    assert verbs == set(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[0].split())
    named = re.findall(r"(?:^|`|\$ )make ([a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= verbs
