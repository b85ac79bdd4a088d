"""Real text of mixed lengths: docstrings of the standard library, drawn with a fixed seed."""

import ast
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SEED = 7
SHORTEST, LONGEST = 60, 2200
"""Characters of a text: about 15 to 512 tokens of an English vocabulary."""


def draw(count: int) -> list[str]:
    """Return `count` docstrings of the standard library, between SHORTEST and LONGEST characters, shuffled."""
    texts = sorted(set(_docstrings(Path(sysconfig.get_path("stdlib")))))
    random.Random(SEED).shuffle(texts)
    return texts[:count]


def _docstrings(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if SHORTEST <= len(text) <= LONGEST:
                    yield text
