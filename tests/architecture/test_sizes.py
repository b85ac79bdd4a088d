"""Files and functions stay short enough to be read whole."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_FILE = 400
LONGEST_FUNCTION = 50


def sources() -> Iterator[Path]:
    for folder in ("src", "tests", "scripts", "benchmarks", "examples"):
        yield from (ROOT / folder).rglob("*.py")


def too_long_files(files: Iterator[Path]) -> list[str]:
    counts = ((file, file.read_text(encoding="utf-8").count("\n")) for file in files)
    return [f"{file}: {count} lines" for file, count in counts if count > LONGEST_FILE]


def too_long_functions(files: Iterator[Path]) -> list[str]:
    return [
        f"{file}:{node.lineno} {node.name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]


def test_files_are_short() -> None:
    """No source file has more than 400 lines."""
    assert not too_long_files(sources())


def test_functions_are_short() -> None:
    """No function has more than 50 lines."""
    assert not too_long_functions(sources())


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    """A file of 401 lines and a function of 51 are reported."""
    file = tmp_path / "long.py"
    file.write_text("def long():\n" + "    x = 1\n" * 50 + "# more\n" * 350, encoding="utf-8")
    assert too_long_files(iter([file])) == [f"{file}: 401 lines"]
    assert too_long_functions(iter([file])) == [f"{file}:1 long"]
