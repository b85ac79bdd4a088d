"""Finds places where a text may be cut without changing any token; knows nothing of requests or limits.

A place p is such a cut if the tokens of `text` are those of `text[:p]` followed by those of `text[p:]`. Whether one
exists depends on the normaliser and the pre-tokenizer of a tokenizer: models themselves (WordPiece, Unigram, BPE) see
one pre-token at a time. Every rule below is a pattern of the characters around p, and holds for these reasons:

- Normalisers: the character after p is a space, a line break, a stop or an ideograph. None of them composes with or is
  reordered before what precedes it, and a grapheme cluster begins at each.
- Words (BERT): whitespace, punctuation and, if they are set apart, ideographs always end a word.
- Metaspace: what follows p begins with the space that begins its word, so that no prefix space is added to it; what
  precedes p does not end in a space, so that no run of spaces is torn apart.
- Byte level: every alternative of the pattern ends after a letter or digit that no letter or digit follows, and after
  any character but whitespace that a space follows.
"""

import json
import re
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from quartzite.domain import Side

_LOCAL_NORMALIZERS = (
    {"type": "BertNormalizer"},
    {"type": "NFC"},
    {"type": "NFD"},
    {"type": "NFKC"},
    {"type": "NFKD"},
    {"type": "Nmt"},
    {"type": "Lowercase"},
    {"type": "StripAccents"},
    {"type": "Precompiled"},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
)

_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_WORDS = ({"type": "BertPreTokenizer"},)
_METASPACE = ({"type": "Metaspace", "split": True},)
_METASPACE_OF_WORDS = ({"type": "WhitespaceSplit"}, *_METASPACE)
_BYTE_LEVEL = (
    {"type": "Split", "pattern": {"Regex": _QWEN_PATTERN}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
)

# Characters searched at a time: patterns hold the interpreter lock, and cannot search backwards.
_STRIDE = 1_000

_IDEOGRAPHS = r"\u4e00-\u9fa5"
_LETTERS = rf"0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3{_IDEOGRAPHS}"
_STOPS = ",.;、。，；：！？"
# Letters that join the grapheme cluster of what precedes them, by which a compiled character map replaces.
_TRAILERS = r"\u0e33\u0eb3\uff9e\uff9f"
_VISIBLE = rf"\w!-~{_STOPS}"

_CUT_BY_WORDS = rf"(?<=\S)(?=[ \t\r\n])|(?<=[{_LETTERS}])(?=[{_STOPS}])"
_CUT_BY_IDEOGRAPHS = rf"(?<=[{_IDEOGRAPHS}])(?=[{_IDEOGRAPHS}])"
_CUT_BY_SPACES = rf"(?<=[{_VISIBLE}])(?<![{_TRAILERS}])(?= (?![{_TRAILERS}])[{_VISIBLE} \r\n])"
_CUT_BY_LINES = rf"(?<=[{_VISIBLE}])(?<![{_TRAILERS}])(?=\r?\n(?![{_TRAILERS}])[{_VISIBLE} \r\n])"
_CUT_BY_BYTE_LEVEL = rf"(?<=\S)(?= )|(?<=[{_LETTERS}])(?=[\t\r\n{_STOPS}])"


def cut_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern that matches, with no width, where texts may be cut for `tokenizer`.

    None if it has a part that no rule is known for: then only whole texts give the right tokens.
    """
    parts = _parts(tokenizer)
    normalizers, pre_tokenizers = _flat(parts["normalizer"]), _flat(parts["pre_tokenizer"])
    if not all(any(_has(part, known) for known in _LOCAL_NORMALIZERS) for part in normalizers):
        return None
    rule = _rule(tokenizer, normalizers, pre_tokenizers)
    if not rule:
        return None
    pattern = re.compile(rule)
    added = tokenizer.get_added_tokens_decoder().values()
    return None if any(_is_torn(token, tokenizer, pattern) for token in added) else pattern


def next_cut(pattern: re.Pattern[str], text: str, distance: int, limit: int, truncate: Side) -> int | None:
    """Return how far from the kept end of `text` the nearest cut is, at least `distance` and at most `limit` away.

    The kept end is the beginning for `right` and the end for `left`. None if no cut was found in that range.
    """
    for near in range(distance, limit, _STRIDE):
        far = min(near + _STRIDE, limit)
        low, high = (near, far) if truncate == "right" else (len(text) - far, len(text) - near)
        cuts = [match.start() for match in pattern.finditer(text, low, high)]
        if cuts:
            return cuts[0] if truncate == "right" else len(text) - cuts[-1]
    return None


def _rule(tokenizer: Tokenizer, normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]) -> str:
    if _are(pre_tokenizers, _WORDS):
        sets_ideographs_apart = any(part.get("handle_chinese_chars") for part in normalizers)
        return _CUT_BY_WORDS + ("|" + _CUT_BY_IDEOGRAPHS if sets_ideographs_apart else "")
    if _are(pre_tokenizers, _METASPACE_OF_WORDS) or (_are(pre_tokenizers, _METASPACE) and _spaces_lines(tokenizer)):
        return _CUT_BY_SPACES + "|" + _CUT_BY_LINES
    if _are(pre_tokenizers, _METASPACE):
        return _CUT_BY_SPACES
    return _CUT_BY_BYTE_LEVEL if _are(pre_tokenizers, _BYTE_LEVEL) else ""


def _spaces_lines(tokenizer: Tokenizer) -> bool:
    """Tell whether the normaliser turns line breaks into spaces."""
    normalizer = tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("a\nb\r\nc") == "a b c"


def _is_torn(token: AddedToken, tokenizer: Tokenizer, pattern: re.Pattern[str]) -> bool:
    """Tell whether a cut could fall into `token`, into whitespace it swallows, or make it a word of its own."""
    spellings = [token.content]
    if token.normalized and tokenizer.normalizer is not None:
        spellings.append(tokenizer.normalizer.normalize_str(token.content))
    return token.single_word or any(_cuts_inside(text, pattern, after=token.rstrip) for text in spellings)


def _cuts_inside(text: str, pattern: re.Pattern[str], after: bool) -> bool:
    cuts = (match.start() for match in pattern.finditer(text + " a"))
    return any(0 < cut < len(text) + after for cut in cuts)


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parts of `tokenizer` before its model, in the form of tokenizer.json as this library writes it."""
    shell = Tokenizer(BPE())
    if tokenizer.normalizer is not None:
        shell.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        shell.pre_tokenizer = tokenizer.pre_tokenizer
    parts: dict[str, Any] = json.loads(shell.to_str())
    return parts


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [leaf for inner in part.get("normalizers") or part.get("pretokenizers") or [] for leaf in _flat(inner)]


def _are(parts: list[dict[str, Any]], known: tuple[dict[str, Any], ...]) -> bool:
    return len(parts) == len(known) and all(map(_has, parts, known))


def _has(part: dict[str, Any], known: dict[str, Any]) -> bool:
    return known.items() <= part.items()
