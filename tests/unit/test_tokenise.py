"""Text and token arrays to ids: special tokens, the maximum, cuts, and what is refused."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quartzite.domain import Ids, ImageItem, Item, Picture, Side, TextItem, TokenItem
from quartzite.errors import InvalidParameter, ModelRefused
from quartzite.preprocess.tokenise import Tokeniser
from seeing import CHAT, IMAGE_TOKEN, picture
from tiny_tokenizers import ALL, BYTE_LEVEL, UNIGRAM, WORDPIECE, added_token, changed, library_ids

SIDES: tuple[Side, ...] = ("left", "right")
VOCABULARY = 2_000
SENTENCE = "The old bridge was closed, so the bus takes the long way. 今天的天气很好，我们去公园。"

Copy = Callable[..., Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Write a copy of a tokenizer with some of its parts replaced."""

    def write(file: Path, **parts: Any) -> Path:
        path = tmp_path / "tokenizer.json"
        path.write_text(changed(file, **parts), encoding="utf-8")
        return path

    return write


def ids_of(file: Path, *texts: str, max_tokens: int = 512, truncate: Side | None = None) -> list[list[int]]:
    tokeniser = Tokeniser(file, max_tokens, VOCABULARY)
    items = [TextItem(text, f"input[{i}]") for i, text in enumerate(texts)]
    return [encoded.ids.tolist() for encoded in tokeniser.encode(items, truncate)]


def ids_of_array(
    file: Path, ids: list[int], max_tokens: int = 512, truncate: Side | None = None, vocabulary: int = VOCABULARY
) -> list[int]:
    item = TokenItem(np.array(ids, dtype=np.int32), "input[2]")
    (encoded,) = Tokeniser(file, max_tokens, vocabulary).encode([item], truncate)
    assert encoded.ids.dtype == np.int32
    framed: list[int] = encoded.ids.tolist()
    return framed


@pytest.mark.parametrize("file", ALL)
def test_texts_become_the_ids_of_the_library_in_their_order(file: Path) -> None:
    """Special tokens stand where the tokenizer puts them."""
    texts = [SENTENCE, "a", " ", "🙂\u0000x"]
    assert ids_of(file, *texts) == [library_ids(file, text) for text in texts]


def test_ids_are_int32() -> None:
    """Engines take int32."""
    (encoded,) = Tokeniser(WORDPIECE, 512, VOCABULARY).encode([TextItem("a")], None)
    assert encoded.ids.dtype == np.int32
    assert encoded.tokens == 3


def test_texts_and_token_arrays_may_stand_side_by_side() -> None:
    """Items are answered in their own order, whatever they were given as."""
    first, last = (TokenItem(np.array([token], np.int32)) for token in (300, 301))
    items: list[Item] = [first, TextItem("a"), last, TextItem("b")]
    encoded = Tokeniser(WORDPIECE, 512, VOCABULARY).encode(items, None)
    (a, b) = ids_of(WORDPIECE, "a", "b")
    assert [e.ids.tolist() for e in encoded] == [[101, 300, 102], a, [101, 301, 102], b]


def test_stored_truncation_and_padding_are_without_effect(copy: Copy) -> None:
    """Published tokenizer files cut and pad to lengths of their training, which have nothing to do with the model."""
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    file = copy(WORDPIECE, truncation=truncation, padding=padding)
    assert ids_of(file, SENTENCE, "a") == [library_ids(WORDPIECE, SENTENCE), library_ids(WORDPIECE, "a")]


@pytest.mark.parametrize(
    ("file", "text", "control"),
    [(WORDPIECE, "a [SEP] b", 102), (UNIGRAM, "a</s>b", 2), (BYTE_LEVEL, "a<|endoftext|>b", 1200)],
)
def test_a_special_token_spelled_out_in_a_text_is_that_token(file: Path, text: str, control: int) -> None:
    """As in every pipeline built on these files, a text can hold control tokens."""
    (ids,) = ids_of(file, text)
    assert control in ids[1:-1]


@pytest.mark.parametrize("file", ALL)
def test_the_maximum_counts_special_tokens_and_is_allowed(file: Path) -> None:
    """A text of exactly the maximum is taken as it is; one token more is refused."""
    ids = library_ids(file, SENTENCE)
    assert ids_of(file, SENTENCE, max_tokens=len(ids)) == [ids]
    with pytest.raises(InvalidParameter):
        ids_of(file, SENTENCE, max_tokens=len(ids) - 1)


def test_a_text_that_is_too_long_is_refused_with_its_length_and_the_way_out() -> None:
    """The message names the item, how long it is, how long it may be, and `truncate`."""
    length = len(library_ids(WORDPIECE, SENTENCE))
    with pytest.raises(InvalidParameter) as caught:
        ids_of(WORDPIECE, "a", SENTENCE, max_tokens=length - 1)
    assert caught.value.pointer == "input[1]"
    assert f"`input[1]` has {length} tokens, and the model takes at most {length - 1} (special" in caught.value.message
    assert '`truncate` to "right"' in caught.value.message
    assert '"left"' in caught.value.message


@pytest.mark.parametrize("file", ALL)
def test_a_very_long_text_is_refused_without_reading_it_all(file: Path) -> None:
    """The far end of the text is never tokenised: half a character there, which no tokenizer takes, is not noticed."""
    with pytest.raises(InvalidParameter, match="`input\\[0\\]` has more than 16 tokens, the most that the model takes"):
        ids_of(file, SENTENCE * 100 + " \ud800", max_tokens=16)


def test_a_text_that_is_read_in_pieces_may_have_exactly_the_maximum() -> None:
    """When the first piece fills the room, what follows decides: blanks are nothing, a word is one token too many."""
    full = " " * 5 + ("a" + " " * 6) * 14
    assert ids_of(WORDPIECE, full + " " * 500, max_tokens=16) == [library_ids(WORDPIECE, full)]
    with pytest.raises(InvalidParameter):
        ids_of(WORDPIECE, full + " " * 500 + "b", max_tokens=16)


@pytest.mark.parametrize("file", ALL)
@pytest.mark.parametrize("truncate", SIDES)
def test_cutting_sparse_text_puts_its_pieces_together_in_order(file: Path, truncate: Side) -> None:
    """Where a piece gives few tokens the next ones are read, from either end."""
    text = (" " * 99).join(f"{word}{n}" for n, word in enumerate(SENTENCE.split() * 20))
    assert ids_of(file, text, max_tokens=30, truncate=truncate) == [library_ids(file, text, 30, truncate)]


@pytest.mark.parametrize("file", ALL)
@pytest.mark.parametrize("truncate", SIDES)
def test_cutting_a_very_long_text_reads_only_the_kept_end(file: Path, truncate: Side) -> None:
    """The result is what cutting the whole text gives, and the other end is never tokenised."""
    long = SENTENCE * 100
    marred = long + " \ud800" if truncate == "right" else "\ud800 " + long
    expected = library_ids(file, long, 20, truncate)
    assert ids_of(file, marred, "a", max_tokens=20, truncate=truncate) == [expected, library_ids(file, "a")]


@pytest.mark.parametrize("truncate", SIDES)
@pytest.mark.parametrize("unit", ["x", "一", " ", "e\u0301", "\n!?"])
@pytest.mark.parametrize("file", ALL)
def test_long_texts_without_a_place_to_cut_are_read_whole(file: Path, unit: str, truncate: Side) -> None:
    """Up to a bound a text is tokenised as a whole if nothing else gives the right tokens."""
    text = unit * 9_000 + "z y"
    assert ids_of(file, text, max_tokens=16, truncate=truncate) == [library_ids(file, text, 16, truncate)]


@pytest.mark.parametrize("truncate", [None, *SIDES])
@pytest.mark.parametrize(
    "unit", ["x", " ", "\n", "\u0301", "x" + " " * 50_000], ids=["x", "space", "line", "mark", "sparse"]
)
def test_texts_made_to_be_slow_are_refused_after_a_bounded_part(unit: str, truncate: Side | None) -> None:
    """Where the tokens cannot be found within the bound, the item is refused with what makes it so."""
    text = unit * (10_000_000 // len(unit))
    with pytest.raises(InvalidParameter) as caught:
        ids_of(WORDPIECE, "a", text, max_tokens=16, truncate=truncate)
    assert caught.value.pointer == "input[1]"
    assert f"`input[1]` has {len(text)} characters. At most 200000 of them are read" in caught.value.message


@pytest.mark.parametrize("truncate", SIDES)
def test_a_tokenizer_that_texts_cannot_be_cut_for_is_given_whole_texts(copy: Copy, truncate: Side) -> None:
    """Without a rule for cutting, results stay right, and only texts within the bound are taken."""
    file = copy(WORDPIECE, pre_tokenizer={"type": "Whitespace"})
    long = SENTENCE * 100
    assert ids_of(file, long, max_tokens=16, truncate=truncate) == [library_ids(file, long, 16, truncate)]
    with pytest.raises(InvalidParameter, match="At most 200000 of them are read"):
        ids_of(file, SENTENCE * 10_000, max_tokens=16, truncate=truncate)


@pytest.mark.parametrize(("file", "framed"), [(WORDPIECE, [101, 300, 102]), (UNIGRAM, [0, 300, 2])])
def test_token_arrays_get_the_special_tokens_they_lack(file: Path, framed: list[int]) -> None:
    """An array may bring both special tokens along, or one, or none."""
    first, token, last = framed
    for given in ([token], [first, token], [token, last], framed):
        assert ids_of_array(file, given) == framed


def test_token_arrays_for_byte_level_end_in_one_end_token() -> None:
    """There is nothing to put in front, and an end token that is there is not doubled."""
    assert ids_of_array(BYTE_LEVEL, [300, 301]) == [300, 301, 1200]
    assert ids_of_array(BYTE_LEVEL, [300, 301, 1200]) == [300, 301, 1200]


def test_token_arrays_of_nothing_but_special_tokens_are_the_empty_text() -> None:
    """They stand for a text without tokens, such as a space."""
    for given in ([101, 102], [101], [102]):
        assert ids_of_array(WORDPIECE, given) == [101, 102]


@pytest.mark.parametrize(
    ("truncate", "kept"), [("right", [101, 300, 301, 302, 102]), ("left", [101, 303, 304, 305, 102])]
)
def test_token_arrays_are_cut_between_their_special_tokens(truncate: Side, kept: list[int]) -> None:
    """Arrays are cut as texts are, whether or not they brought special tokens along."""
    inner = [300, 301, 302, 303, 304, 305]
    assert ids_of_array(WORDPIECE, inner, 5, truncate) == kept
    assert ids_of_array(WORDPIECE, [101, *inner, 102], 5, truncate) == kept


def test_a_token_array_that_is_too_long_is_refused_with_its_length() -> None:
    """The special tokens that would be added are counted, those brought along not twice."""
    for given in ([300] * 4, [101, *[300] * 4, 102]):
        with pytest.raises(InvalidParameter, match="`input\\[2\\]` has 6 tokens, and the model takes at most 5"):
            ids_of_array(WORDPIECE, given, max_tokens=5)


@pytest.mark.parametrize(("odd", "place"), [(1_188, 1), (2**31 - 1, 1), (-1, 1)])
def test_ids_outside_the_vocabulary_are_refused_by_place_and_number(odd: int, place: int) -> None:
    """Ids of another model's vocabulary would read outside the embedding table."""
    with pytest.raises(InvalidParameter) as caught:
        ids_of_array(WORDPIECE, [300, odd, 5_000], vocabulary=1_188)
    assert caught.value.pointer == "input[2]"
    assert f"`input[2]` is a token array with id {odd} at place {place}" in caught.value.message
    assert "ends at 1187" in caught.value.message
    assert "check_embedding_ctx_length=False" in caught.value.message


def test_the_last_id_of_the_vocabulary_is_taken() -> None:
    """The vocabulary's size is one more than its last id."""
    assert ids_of_array(WORDPIECE, [1_187], vocabulary=1_188) == [101, 1_187, 102]


def test_a_text_that_leaves_no_token_at_all_is_refused(copy: Copy) -> None:
    """Without special tokens a text of blanks has nothing to compute a vector from."""
    file = copy(WORDPIECE, post_processor=None)
    with pytest.raises(InvalidParameter, match="`input\\[1\\]` has no tokens"):
        ids_of(file, "a", "  ")


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    """A damaged or missing file stops the model with its path."""
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ModelRefused, match=r"tokenizer\.json cannot be read"):
        Tokeniser(file, 8, VOCABULARY)
    file.write_text('{"version": "1.0"}', encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"tokenizer\.json cannot be read"):
        Tokeniser(file, 8, VOCABULARY)


def test_a_tokenizer_larger_than_the_embedding_table_is_refused() -> None:
    """It could give ids for which the model has no row."""
    Tokeniser(WORDPIECE, 8, 1_188)
    with pytest.raises(ModelRefused, match="has 1188 tokens and the model's embedding table only 1187 rows"):
        Tokeniser(WORDPIECE, 8, 1_187)


def test_a_maximum_without_room_for_text_is_refused() -> None:
    """Two special tokens fill a maximum of two."""
    with pytest.raises(ModelRefused, match="a maximum of 2 tokens leaves no room"):
        Tokeniser(WORDPIECE, 2, VOCABULARY)


def test_a_template_that_leaves_the_text_out_is_refused(copy: Copy) -> None:
    """What stands before and after a text must be known before token arrays can be framed."""
    post_processor = json.loads(WORDPIECE.read_text(encoding="utf-8"))["post_processor"]
    post_processor["single"] = post_processor["single"][:1]
    with pytest.raises(ModelRefused, match="special tokens cannot be told"):
        Tokeniser(copy(WORDPIECE, post_processor=post_processor), 8, VOCABULARY)


def test_threads_may_share_one_tokeniser() -> None:
    """Many calls at once give what one after another gives."""
    tokeniser = Tokeniser(UNIGRAM, 16, VOCABULARY)
    texts = [f"{SENTENCE} {n} " * (1 + n % 7) for n in range(64)]

    def encode(text: str) -> Ids:
        (encoded,) = tokeniser.encode([TextItem(text)], "left")
        return encoded.ids

    with ThreadPoolExecutor(8) as pool:
        answers = [ids.tolist() for ids in pool.map(encode, texts)]
    assert answers == [library_ids(UNIGRAM, text, 16, "left") for text in texts]


def test_texts_are_not_cut_inside_an_added_token(copy: Copy) -> None:
    """A model's own added token may hold spaces; it stays one token wherever a piece would end."""
    file = copy(WORDPIECE, added_tokens=[added_token("New York")])
    text = "a New York " * 50
    for truncate in SIDES:
        assert ids_of(file, text, max_tokens=10, truncate=truncate) == [library_ids(file, text, 10, truncate)]


def test_items_are_equal_by_what_their_vector_is_made_of() -> None:
    """The same ids by another way are; other ids, and the same ids around another picture, are not."""
    tokeniser = Tokeniser(WORDPIECE, 512, VOCABULARY)
    given = [
        TextItem("a b"),
        TextItem(" a b", "input[1]"),
        TokenItem(np.array(library_ids(WORDPIECE, "a b"), dtype=np.int32)),
        TextItem("b a"),
    ]
    same, again, as_ids, other = [item.fingerprint for item in tokeniser.encode(given, None)]
    assert same == again == as_ids != other
    assert len(same) == 16
    black, white = picture(2, 2), Picture(picture(2, 2).pixels + 255)
    pictures = [black, picture(2, 2), white, picture(1, 4)]
    seeing = Tokeniser(CHAT, 512, VOCABULARY, IMAGE_TOKEN)
    items = seeing.encode([ImageItem("")] * 4, None, pictures)
    assert len({bytes(item.ids) for item in items}) == 1
    one, equal, others, turned = [item.fingerprint for item in items]
    assert one == equal
    assert len({one, others, turned}) == 3
