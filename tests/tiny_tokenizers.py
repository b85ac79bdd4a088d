"""The tiny tokenizers of the tests, changed copies of them, and what the library itself makes of a text."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

FOLDER = Path(__file__).parent / "fixtures" / "tokenizers"
WORDPIECE = FOLDER / "wordpiece.json"
UNIGRAM = FOLDER / "unigram.json"
BYTE_LEVEL = FOLDER / "bytelevel.json"
ALL = (WORDPIECE, UNIGRAM, BYTE_LEVEL)

WHITESPACE_SPLIT = {"type": "WhitespaceSplit"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
NMT_NFKC = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Nmt"},
        {"type": "NFKC"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ],
}


def changed(file: Path, **parts: Any) -> str:
    """Return the JSON of `file` with some of its top-level parts replaced."""
    description = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps(description | parts)


def added_token(content: str, **flags: Any) -> dict[str, Any]:
    """Return an entry for `added_tokens` with the id of an ordinary piece."""
    plain = {"id": 300, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return plain | {"content": content} | flags


def library_ids(file: Path, text: str, max_tokens: int | None = None, truncate: str = "right") -> list[int]:
    """Return the ids of the whole text, cut by the library itself if `max_tokens` is given."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens, direction=truncate)
    ids: list[int] = tokenizer.encode(text).ids
    return ids
