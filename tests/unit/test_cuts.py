"""Which tokenizers texts may be cut for, and where the next cut is found."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from quartzite.domain import Side
from quartzite.preprocess.cuts import cut_pattern, next_cut
from tiny_tokenizers import (
    ALL,
    BYTE_LEVEL,
    METASPACE,
    NMT_NFKC,
    UNIGRAM,
    WHITESPACE_SPLIT,
    WORDPIECE,
    added_token,
    changed,
)

BEFORE_SPACE = re.compile("(?= )")


def cuts(file: Path, text: str, **parts: Any) -> list[str]:
    pattern = cut_pattern(Tokenizer.from_str(changed(file, **parts)))
    assert pattern is not None
    places = [0, *(match.start() for match in pattern.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


def pattern_of(file: Path, **parts: Any) -> re.Pattern[str] | None:
    return cut_pattern(Tokenizer.from_str(changed(file, **parts)))


def test_texts_for_wordpiece_are_cut_at_words_stops_and_ideographs() -> None:
    """Everything that always ends a word of BERT ends a piece."""
    assert cuts(WORDPIECE, "one two, 你好\nten") == ["one", " two", ",", " 你", "好", "\nten"]


def test_ideographs_that_are_not_set_apart_stay_together() -> None:
    """A BERT tokenizer may be told to leave Chinese as it is."""
    normalizer = json.loads(WORDPIECE.read_text(encoding="utf-8"))["normalizer"] | {"handle_chinese_chars": False}
    assert cuts(WORDPIECE, "one 你好", normalizer=normalizer) == ["one", " 你好"]


def test_texts_for_unigram_are_cut_at_single_spaces_and_before_runs() -> None:
    """A run of spaces is one space to the model, and stays in one piece."""
    assert cuts(UNIGRAM, "one  two，你好 three") == ["one", "  two，你好", " three"]


def test_texts_for_unigram_are_cut_at_lines_only_where_a_line_break_becomes_a_space() -> None:
    """What a line break is to a Metaspace tokenizer depends on what stands before it."""
    assert cuts(UNIGRAM, "好。\n\n对") == ["好。\n\n对"]
    assert cuts(UNIGRAM, "好。\n\n对\r\n!", normalizer=NMT_NFKC) == ["好。", "\n\n对", "\r\n!"]
    split = {"type": "Sequence", "pretokenizers": [WHITESPACE_SPLIT, METASPACE]}
    assert cuts(UNIGRAM, "好。\n对", pre_tokenizer=split) == ["好。", "\n对"]


def test_texts_for_byte_level_are_cut_at_spaces_and_after_letters() -> None:
    """Line breaks after a stop belong to the stop, so only those after letters are cuts."""
    assert cuts(BYTE_LEVEL, "one two.\nten\n你好，对") == ["one", " two", ".\nten", "\n你好", "，对"]


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": METASPACE | {"split": False}},
        {"normalizer": {"type": "Prepend", "prepend": "▁"}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}},
    ],
)
def test_no_rule_is_made_up_for_parts_that_are_not_known(parts: dict[str, Any]) -> None:
    """A tokenizer with a part of unknown reach is never given cut texts."""
    assert pattern_of(UNIGRAM) is not None
    assert pattern_of(UNIGRAM, **parts) is None


def test_a_pre_tokenizer_of_another_pattern_has_no_rule() -> None:
    """Byte-level tokenizers are told apart by their pattern, letter by letter."""
    sequence = json.loads(BYTE_LEVEL.read_text(encoding="utf-8"))["pre_tokenizer"]
    sequence["pretokenizers"][0]["pattern"]["Regex"] += "|x y"
    assert pattern_of(BYTE_LEVEL, pre_tokenizer=sequence) is None


def test_a_tokenizer_without_a_normaliser_has_a_rule() -> None:
    """Nothing before the pre-tokenizer is nothing to mind."""
    assert pattern_of(BYTE_LEVEL, normalizer=None) is not None


@pytest.mark.parametrize("file", ALL)
@pytest.mark.parametrize(
    "token",
    [
        added_token("New York"),
        added_token("new york", normalized=True),
        added_token("word", single_word=True),
        added_token("word", rstrip=True),
    ],
)
def test_no_text_is_cut_where_an_added_token_could_be_torn(file: Path, token: dict[str, Any]) -> None:
    """Added tokens are found before words are, and some reach over spaces."""
    assert pattern_of(file, added_tokens=[token]) is None


@pytest.mark.parametrize("file", ALL)
def test_added_tokens_without_spaces_do_no_harm(file: Path) -> None:
    """The special tokens of ordinary models leave the rule in force, also those that swallow spaces before them."""
    assert pattern_of(file, added_tokens=[added_token("<mask>", lstrip=True), added_token("[word]")]) is not None


@pytest.mark.parametrize(
    ("truncate", "distance", "limit", "found"),
    [("right", 3, 12, 5), ("right", 6, 12, 9), ("right", 6, 9, None), ("left", 2, 12, 3), ("left", 4, 12, 7)],
)
def test_the_next_cut_is_counted_from_the_kept_end(
    truncate: Side, distance: int, limit: int, found: int | None
) -> None:
    """Right keeps the beginning and counts from there, left counts from the end."""
    assert next_cut(BEFORE_SPACE, "abcde ghi kl", distance, limit, truncate) == found


@pytest.mark.parametrize(("truncate", "found"), [("right", 5_000), ("left", 5_001)])
def test_a_far_cut_is_found(truncate: Side, found: int) -> None:
    """The search goes on until the limit, on both sides, and takes the nearest cut."""
    text = "a" * 5_000 + " " + "b" * 5_000
    assert next_cut(BEFORE_SPACE, text, 10, 9_000, truncate) == found
    assert next_cut(BEFORE_SPACE, text, 10, 4_000, truncate) is None
