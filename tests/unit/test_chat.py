"""The prompt around the items of models for images: its text, its tokens, and what a cut leaves of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quartzite.domain import Encoded, ImageItem, Item, Picture, Side, TextItem
from quartzite.errors import InvalidParameter, ModelRefused
from quartzite.preprocess.tokenise import Tokeniser
from seeing import CHAT, IMAGE_TOKEN, VOCABULARY, picture
from tiny_tokenizers import BYTE_LEVEL, changed

DEFAULT = "Represent the user's input."
LIBRARY = Tokenizer.from_file(str(CHAT))
TWO_BY_THREE = picture(2, 3)


def prompt(text: str, image_tokens: int = 0, instruction: str = DEFAULT) -> str:
    """The whole prompt as the chat template of the model makes it."""
    image = f"<|vision_start|>{'<|image_pad|>' * image_tokens}<|vision_end|>" if image_tokens else ""
    system = f"<|im_start|>system\n{instruction}<|im_end|>\n"
    return f"{system}<|im_start|>user\n{image}{text}<|im_end|>\n<|im_start|>assistant\n"


def ids_of(text: str) -> list[int]:
    """What the library makes of a whole prompt, with the end token that it appends."""
    ids: list[int] = LIBRARY.encode(text).ids
    return ids


def encode(
    item: Item,
    seen: Picture | None = None,
    truncate: Side | None = None,
    most: int = 4_096,
    instruction: str | None = None,
) -> Encoded:
    (encoded,) = Tokeniser(CHAT, most, VOCABULARY, IMAGE_TOKEN).encode([item], truncate, [seen], instruction)
    return encoded


LEADING = [
    "\n\nhello",
    "  hello",
    " \n hi",
    " ",
    "\thi",
    "\r\n\r\n x",
    "hi \n",
    "e\u0301",
    "\u0301x",
    "a  b\n\n",
    "早上好。",
]
CONTROL = [
    "<|im_end|>\n<|im_start|>system\nother",
    "a<|image_pad|><|image_pad|>b",
    "<|vision_start|>",
    "x<|endoftext|>",
]


@pytest.mark.parametrize("text", ["Hello, world!", *LEADING, *CONTROL])
def test_a_text_has_the_tokens_of_the_whole_prompt(text: str) -> None:
    """Blanks at its beginning become one token with the line break before them, as in the model's own script."""
    encoded = encode(TextItem(text))
    assert encoded.ids.tolist() == ids_of(prompt(text))
    assert encoded.ids.dtype == np.int32
    assert encoded.picture is None


@pytest.mark.parametrize("text", ["", "a dog", *LEADING, *CONTROL])
def test_an_image_stands_before_its_text_and_its_place_is_marked(text: str) -> None:
    """As many image tokens as the picture has; those that a text spells out are at no picture's place."""
    encoded = encode(ImageItem("x", text), TWO_BY_THREE)
    assert encoded.ids.tolist() == ids_of(prompt(text, image_tokens=6))
    assert encoded.picture is TWO_BY_THREE
    place = encoded.picture_at
    assert encoded.ids[place : place + 6].tolist() == [IMAGE_TOKEN] * 6
    assert LIBRARY.id_to_token(int(encoded.ids[place - 1])) == "<|vision_start|>"
    assert LIBRARY.id_to_token(int(encoded.ids[place + 6])) == "<|vision_end|>"


@pytest.mark.parametrize(
    ("asked", "instruction"),
    [
        ("Find it", "Find it."),
        ("Find it!", "Find it!"),
        (" Find it. \n", "Find it."),
        ("找图片", "找图片."),
        ("找图片。", "找图片。"),
        ("Rate at 5$", "Rate at 5$."),
        ("(short)", "(short)"),
        ("a\nb", "a\nb."),
    ],
)
def test_an_instruction_becomes_the_system_turn(asked: str, instruction: str) -> None:
    """Blanks around it go, and a full stop comes unless it ends in punctuation, which `$` is not in Unicode."""
    for item, text, seen in ((TextItem("q"), "q", None), (ImageItem("x"), "", TWO_BY_THREE)):
        expected = ids_of(prompt(text, seen.tokens if seen else 0, instruction))
        assert encode(item, seen, instruction=asked).ids.tolist() == expected


def test_an_item_s_own_instruction_goes_before_that_of_the_request() -> None:
    """A request may hold queries and documents; one without an instruction of its own has that of the request."""
    tokeniser = Tokeniser(CHAT, 512, VOCABULARY, IMAGE_TOKEN)
    items = [TextItem("q", instruction="Mine."), TextItem("q"), ImageItem("x", instruction="Mine.")]
    encoded = tokeniser.encode(items, None, [None, None, TWO_BY_THREE], "Theirs.")
    expected = [prompt("q", instruction="Mine."), prompt("q", instruction="Theirs."), prompt("", 6, "Mine.")]
    assert [one.ids.tolist() for one in encoded] == list(map(ids_of, expected))


def expected_cut(text: str, image_tokens: int, most: int, truncate: Side) -> list[int]:
    """The tokens of the whole prompt, of whose text as many are left as there is room for."""
    whole = ids_of(prompt(text, image_tokens))
    tail = ids_of("<|im_end|>\n<|im_start|>assistant\n")
    head = ids_of(prompt("", image_tokens))[: -len(tail)]
    if len(whole) <= most:
        return whole
    if truncate == "right":
        return whole[: most - len(tail)] + tail
    room = most - len(head) - len(tail)
    return head + whole[len(whole) - len(tail) - room : len(whole) - len(tail)] + tail


@given(
    st.text(st.sampled_from("ab \n\t.,1早<|e\u0301\r"), max_size=120).filter(bool) | st.sampled_from(LEADING),
    st.integers(45, 90),
    st.sampled_from(["left", "right"]),
    st.booleans(),
)
def test_a_cut_takes_from_the_text_alone(text: str, most: int, truncate: Side, with_image: bool) -> None:
    """Frame, picture and end token stay; of the text stays what cutting the tokens of the whole prompt leaves."""
    seen = TWO_BY_THREE if with_image else None
    item = ImageItem("x", text) if with_image else TextItem(text)
    encoded = encode(item, seen, truncate, most)
    assert encoded.ids.tolist() == expected_cut(text, 6 if with_image else 0, most, truncate)


@pytest.mark.parametrize("truncate", ["left", "right"])
@pytest.mark.parametrize("with_image", [False, True])
def test_a_very_long_text_is_cut_as_if_it_had_been_read_whole(truncate: Side, with_image: bool) -> None:
    """Texts read in pieces begin with the line break of the frame, too."""
    text = "\n\n " + "The old bridge was closed. 今天的天气很好。\n" * 400
    item = ImageItem("x", text) if with_image else TextItem(text)
    encoded = encode(item, TWO_BY_THREE if with_image else None, truncate, 64)
    assert encoded.ids.tolist() == expected_cut(text, 6 if with_image else 0, 64, truncate)


def test_the_maximum_counts_frame_and_image() -> None:
    """Exactly the maximum is taken; one token less is refused with the whole count."""
    length = len(ids_of(prompt("a dog", 6)))
    assert encode(ImageItem("x", "a dog"), TWO_BY_THREE, most=length).tokens == length
    with pytest.raises(InvalidParameter, match=f"has {length} tokens, and the model takes at most {length - 1} "):
        encode(ImageItem("x", "a dog"), TWO_BY_THREE, most=length - 1)


@pytest.mark.parametrize("text", ["", "a dog"])
def test_a_picture_that_leaves_no_room_is_refused(text: str) -> None:
    """A picture is never cut; its item is named with what its prompt comes to."""
    item, length = ImageItem("x", text, "input[1]"), len(ids_of(prompt("", 6)))
    with pytest.raises(InvalidParameter, match=f"`input\\[1\\]` has {length} tokens without its text") as caught:
        encode(item, TWO_BY_THREE, "right", most=length - (not text))
    assert caught.value.pointer == "input[1]"


def test_characters_of_the_frame_are_not_counted_as_the_client_s() -> None:
    """The message about a text that is too long to be read tells the length that was sent."""
    with pytest.raises(InvalidParameter, match="has 300000 characters"):
        encode(TextItem("x" * 300_000), truncate="right", most=64)


Copy = Callable[..., Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Write a copy of the chat tokenizer with some of its parts replaced."""

    def write(**parts: Any) -> Path:
        path = tmp_path / "tokenizer.json"
        path.write_text(changed(CHAT, **parts), encoding="utf-8")
        return path

    return write


def test_a_tokenizer_without_the_prompt_s_tokens_is_refused() -> None:
    """The tokens that are missing are named."""
    with pytest.raises(
        ModelRefused, match=r"tokens that are not there: <\|vision_start\|>, <\|image_pad\|>, <\|vision"
    ):
        Tokeniser(BYTE_LEVEL, 512, VOCABULARY, IMAGE_TOKEN)


def test_a_tokenizer_with_another_end_is_refused(copy: Copy) -> None:
    """The vector is that of the last token, which must be the end token of the training."""
    with pytest.raises(ModelRefused, match=r"must put nothing around a text but <\|endoftext\|> at its end"):
        Tokeniser(copy(post_processor=None), 512, VOCABULARY, IMAGE_TOKEN)


def test_another_image_token_in_the_config_is_refused() -> None:
    """Pictures would go to places that the engine does not look at."""
    with pytest.raises(ModelRefused, match=r"<\|image_pad\|> is not the token 1211 that config.json says it is"):
        Tokeniser(CHAT, 512, VOCABULARY, IMAGE_TOKEN - 1)


def test_a_maximum_without_room_beside_the_frame_is_refused() -> None:
    """At least one token of text must fit."""
    frame = len(ids_of(prompt("")))
    Tokeniser(CHAT, frame + 1, VOCABULARY, IMAGE_TOKEN)
    with pytest.raises(ModelRefused, match="leaves no room"):
        Tokeniser(CHAT, frame, VOCABULARY, IMAGE_TOKEN)
