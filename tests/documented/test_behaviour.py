"""Each promise of docs/behaviour.md is shown by a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def promises(page: str) -> list[str]:
    """Return the rows of the table of promises."""
    return [line for line in page.splitlines() if line.startswith("| ")][1:]


def unshown(page: str) -> list[str]:
    """Return the promises of `page` that name no test, or one that does not exist."""
    return [row for row in promises(page) if not _is_shown(row)]


def _is_shown(row: str) -> bool:
    named = re.fullmatch(r"\| .+\. \| `(tests/[\w/]+\.py)::(test_\w+)` \|", row)
    return named is not None and (ROOT / named[1]).is_file() and named[2] in _tests_in(ROOT / named[1])


def _tests_in(file: Path) -> set[str]:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_promise_names_a_test_that_exists() -> None:
    """No row of the page is without its test."""
    page = (ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8")
    assert len(promises(page)) > 20
    assert unshown(page) == []


def test_a_promise_without_its_test_is_found() -> None:
    """A row that names no test, a missing file or a missing function is reported."""
    here = "tests/documented/test_behaviour.py"
    rows = ["| None. | |", f"| Gone. | `{here}::test_gone` |", "| No file. | `tests/gone.py::test_gone` |"]
    kept = f"| Kept. | `{here}::test_a_promise_without_its_test_is_found` |"
    assert unshown("\n".join(["| promise | shown by |", "|---|---|", *rows, kept])) == rows
