"""Cutting characters first gives the tokens that cutting the tokens of the whole text gives."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quartzite.domain import Side, TextItem
from quartzite.errors import InvalidParameter
from quartzite.preprocess.cuts import cut_pattern
from quartzite.preprocess.tokenise import Tokeniser
from tiny_tokenizers import BYTE_LEVEL, METASPACE, NMT_NFKC, UNIGRAM, WHITESPACE_SPLIT, WORDPIECE, changed

WORDS_OF_UNIGRAM = {"type": "Sequence", "pretokenizers": [WHITESPACE_SPLIT, METASPACE]}


def merging_more() -> dict[str, object]:
    """Return the byte-level model with pieces of spaces, line breaks and stops, as real ones have them."""
    model: dict[str, object] = json.loads(BYTE_LEVEL.read_text(encoding="utf-8"))["model"]
    vocabulary, merges = model["vocab"], model["merges"]
    assert isinstance(vocabulary, dict)
    assert isinstance(merges, list)
    for number, pair in enumerate(["ĠĠ", "ĊĊ", "ĉĉ", ".Ċ", ",Ċ", "..", ".,", "Ġ."], start=1300):
        vocabulary[pair] = number
        merges.append([*pair])
    return model


TOKENIZERS: dict[str, tuple[Path, dict[str, object]]] = {
    "wordpiece": (WORDPIECE, {}),
    "unigram": (UNIGRAM, {}),
    "unigram, lines are spaces": (UNIGRAM, {"normalizer": NMT_NFKC}),
    "unigram, split at whitespace": (UNIGRAM, {"pre_tokenizer": WORDS_OF_UNIGRAM}),
    "byte level": (BYTE_LEVEL, {"model": merging_more()}),
}

# Words of the corpus; everything around which normalisers and pre-tokenizers behave in ways of their own.
WORDS = [
    "the",
    "bridge",
    "lake",
    "It's",
    "'LL",
    "don't",
    "1784",
    "x1",
    "New",
    "天气",
    "很好",
    "世",
    "界",
    "한국",
    "ひら",
    "カ",
]
SPACES = [" ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "\u3000", "\u00a0", "\u200b", "\x85", "\x1c"]
STOPS = [",", ".", ", ", ". ", "。", "，", "。\n", ".\n", ",\n\n", "、", "！", "？", ";", "'", '"', "-", "(", "!!", "…"]
MARKS = ["\u0301", "\u0338", "\u3099", "\u200d", "\ufe0f", "\u0345", "\u0e33", "\uff9e", "ि", "\u1161"]
ODD = [
    "\0",
    "\x01",
    "▁",
    "é",
    "İ",
    "ß",
    "ſ",
    "ﬁ",
    "㍿",
    "ﷺ",
    "ﹰ",
    "Å",
    "豈",
    "🙂",
    "👍🏽",
    "\U00020000",
    "\ufffd",
    "ᄀ",
    "\u0600",
    "ൎ",
]
CONTROL = ["[SEP]", "[CLS]", "</s>", "<mask>", " <mask>", "<mask> ", "<|endoftext|>", "<|im_start|>"]
SPARSE = [" " * 50, "x" * 150]

plain = st.sampled_from([*WORDS, *SPACES, *STOPS])
odd = st.sampled_from([*MARKS, *ODD, *CONTROL, *SPARSE]) | st.characters(codec="utf-8")
texts = st.lists(plain | plain | odd, min_size=8, max_size=40).map("".join)
sides = st.sampled_from(["left", "right"])


@functools.cache
def library(name: str, most: int | None = None, side: Side = "right") -> Tokenizer:
    """Return a tokenizer of the library, cutting to `most` tokens by itself if it is given."""
    file, parts = TOKENIZERS[name]
    tokenizer = Tokenizer.from_str(changed(file, **parts))
    if most is not None:
        tokenizer.enable_truncation(most, direction=side)
    return tokenizer


@functools.cache
def tokeniser(name: str, most: int) -> Tokeniser:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        library(name).save(str(file))
        return Tokeniser(file, most, vocabulary=2_000)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts)
@example(text="one.\nTwo,\n\nthree  four 天气，很好。\n世   界. 'LL\tx")
def test_the_tokens_of_the_parts_are_those_of_the_whole(name: str, text: str) -> None:
    """Wherever the rule of a tokenizer allows a cut, both sides tokenise as they do in the whole text."""
    tokenizer, pattern = library(name), cut_pattern(library(name))
    assert pattern is not None
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    for cut in (match.start() for match in pattern.finditer(text)):
        before, after = tokenizer.encode_batch([text[:cut], text[cut:]], add_special_tokens=False)
        assert before.ids + after.ids == whole, (text[:cut], text[cut:])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts, times=st.integers(1, 12), most=st.sampled_from([3, 4, 7, 16]), side=sides)
def test_a_cut_text_is_what_cutting_its_tokens_gives(name: str, text: str, times: int, most: int, side: Side) -> None:
    """For any text, maximum and side the ids are those of the library's own truncation of the whole text."""
    (encoded,) = tokeniser(name, most).encode([TextItem(text * times)], side)
    assert encoded.ids.tolist() == library(name, most, side).encode(text * times).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts, times=st.integers(1, 4), most=st.sampled_from([3, 4, 7, 16, 64]))
def test_without_a_cut_a_text_is_refused_exactly_when_it_is_too_long(
    name: str, text: str, times: int, most: int
) -> None:
    """Reading a part of a long text never lets it pass as a short one, nor the other way round."""
    whole = library(name).encode(text * times).ids
    try:
        (encoded,) = tokeniser(name, most).encode([TextItem(text * times)], None)
    except InvalidParameter:
        assert len(whole) > most
    else:
        assert encoded.ids.tolist() == whole
        assert len(whole) <= most
