"""The forms of `input`: what is taken, what is refused, and how the item at fault is named."""

from pathlib import Path

import numpy as np
import pytest

from quartzite.config import RequestSettings
from quartzite.domain import EmbeddingRequest, ImageItem, Item, TextItem, TokenItem
from quartzite.errors import InvalidParameter, TooManyItems
from quartzite.preprocess.inputs import check_contents, check_dimensions, read_items
from quartzite.registry.card import AllowedDimensions, BertShape, ModelCard
from seeing import seeing_card

SETTINGS = RequestSettings(max_inputs_per_request=4)
SURROGATE = "\ud800"


def texts(items: tuple[Item, ...]) -> list[tuple[str, str]]:
    return [(item.text, item.pointer) for item in items if isinstance(item, TextItem)]


def token_arrays(items: tuple[Item, ...]) -> list[tuple[list[int], str]]:
    return [(item.ids.tolist(), item.pointer) for item in items if isinstance(item, TokenItem)]


def refusal(value: object, settings: RequestSettings = SETTINGS) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        read_items(value, settings)
    return caught.value


def test_a_string_is_one_item() -> None:
    """A single text is named `input` in messages."""
    assert texts(read_items("早上好 hello", SETTINGS)) == [("早上好 hello", "input")]


def test_a_list_of_strings_keeps_its_order() -> None:
    """Members of a list are named by their places."""
    assert texts(read_items(["b", "a"], SETTINGS)) == [("b", "input[0]"), ("a", "input[1]")]


def test_text_objects_are_taken_alone_and_among_strings() -> None:
    """`{"text": ...}` means the same as its text; null is as good as absent."""
    assert texts(read_items({"text": "a", "video": None}, SETTINGS)) == [("a", "input")]
    assert texts(read_items(["a", {"text": "b", "image": None}], SETTINGS)) == [("a", "input[0]"), ("b", "input[1]")]


def test_a_flat_list_of_integers_is_one_item_of_any_length() -> None:
    """The number of tokens of one array has nothing to do with the number of items."""
    assert token_arrays(read_items([101, 0, 7, 2**31 - 1, 102], SETTINGS)) == [([101, 0, 7, 2**31 - 1, 102], "input")]


def test_token_arrays_are_int32() -> None:
    """Engines take int32 ids, whatever width the numbers came in."""
    (item,) = read_items([1, 2], SETTINGS)
    assert isinstance(item, TokenItem)
    assert item.ids.dtype == np.int32


def test_a_list_of_token_arrays_is_one_item_each() -> None:
    """Each array keeps its place."""
    assert token_arrays(read_items([[1], [2, 3]], SETTINGS)) == [([1], "input[0]"), ([2, 3], "input[1]")]


def test_images_are_taken_alone_among_texts_and_beside_one() -> None:
    """An object holds an image, and perhaps a text of the same item; an empty text beside an image is none."""
    url = "https://example.com/a.jpg"
    assert read_items({"image": url}, SETTINGS) == (ImageItem(url),)
    assert read_items(["a", {"image": f" {url}\n", "text": ""}], SETTINGS)[1] == ImageItem(url, "", "input[1]")
    assert read_items([{"image": url, "text": "a dog"}], SETTINGS) == (ImageItem(url, "a dog", "input[0]"),)


def test_an_object_may_have_an_instruction_of_its_own() -> None:
    """It is kept with the item, without the blanks around it; a blank one is as good as absent."""
    (first, second) = read_items(
        [{"text": "a", "instruction": " Find. "}, {"image": "x", "instruction": " "}], SETTINGS
    )
    assert first == TextItem("a", "input[0]", "Find.")
    assert second == ImageItem("x", "", "input[1]", None)


SEEING = seeing_card("vl")
TEXT_ONLY = ModelCard("text", Path("no-folder"), BertShape(1, 8, 1, 1, 1, 1, 1, 1e-12, "gelu", 0), "cls", max_tokens=8)


@pytest.mark.parametrize(
    ("item", "instruction", "pointer", "says"),
    [
        (ImageItem("x", "", "input[1]"), None, "input[1].image", "`input[1].image` is an image, and text takes texts"),
        (TextItem("a", "input[1]", "Find."), None, "input[1].instruction", "is an instruction, which only models for"),
        (TextItem("a"), "Find.", "instruction", "`instruction` is an instruction, which only models for images have"),
        (TokenItem(np.array([1], np.int32)), "Find.", "instruction", "`instruction` is an instruction"),
    ],
)
def test_what_only_models_for_images_take_is_refused_by_others(
    item: Item, instruction: str | None, pointer: str, says: str
) -> None:
    """The refusal names the place, and the models that would take it."""
    asked = EmbeddingRequest("text", (TextItem("a"), item), instruction=instruction)
    for served, there in (([TEXT_ONLY], "no model served here takes images"), ([TEXT_ONLY, SEEING], "here vl takes")):
        with pytest.raises(InvalidParameter) as caught:
            check_contents(asked, TEXT_ONLY, served)
        assert caught.value.pointer == pointer
        assert says in caught.value.message
        assert there in caught.value.message


def test_a_model_for_images_takes_all_but_token_arrays() -> None:
    """Token arrays would come without the prompt that the model needs around every item."""
    items = (TextItem("a", instruction="Find."), ImageItem("x", "b"))
    check_contents(EmbeddingRequest("vl", items, instruction="Find."), SEEING, [SEEING])
    with pytest.raises(InvalidParameter, match="`input` is a token array, and vl takes texts and images only"):
        check_contents(EmbeddingRequest("vl", (TokenItem(np.array([1], np.int32)),)), SEEING, [SEEING])


@pytest.mark.parametrize("value", [["a"] * 5, [[1]] * 5, [None] * 5])
def test_a_list_above_the_limit_is_refused_by_its_length(value: list[object]) -> None:
    """Too many items are told apart from a wrong item, with both numbers."""
    with pytest.raises(TooManyItems, match="input batch size 5 > maximum allowed batch size 4"):
        read_items(value, SETTINGS)


def test_a_list_of_exactly_the_limit_is_taken() -> None:
    """The limit itself is allowed."""
    assert len(read_items(["a"] * 4, SETTINGS)) == 4


@pytest.mark.parametrize("blank", ["  ", "\t", " \n", "\u3000", "\0"])
def test_blank_text_that_is_more_than_line_breaks_is_taken(blank: str) -> None:
    """Clients replace empty texts by a space and rely on an answer."""
    assert texts(read_items(blank, SETTINGS)) == [(blank, "input")]


@pytest.mark.parametrize(
    ("value", "pointer", "says"),
    [
        (None, "input", "`input` is required"),
        ("", "input", "`input` is an empty string"),
        (["a", ""], "input[1]", "`input[1]` is an empty string"),
        ({"text": ""}, "input", "`input` is an empty string"),
        (["a", "\n\r\n"], "input[1]", "`input[1]` holds nothing but line breaks"),
        ([], "input", "`input` is an empty list"),
        ([[]], "input[0]", "`input[0]` is an empty token array"),
        (3, "input", "`input` is a number"),
        (True, "input", "`input` is a boolean"),
        (["a", None], "input[1]", "`input[1]` is null"),
        (["a", 1], "input[1]", "`input[1]` is a number"),
        (["a", 1.5], "input[1]", "`input[1]` is a number"),
        (["a", False], "input[1]", "`input[1]` is a boolean"),
        ([None], "input[0]", "`input[0]` is null"),
        ([1, True], "input", "`input` is a token array that has a boolean at place 1"),
        ([True, 1], "input", "`input` is a token array that has a boolean at place 0"),
        ([1, 2.0], "input", "`input` is a token array that has a number at place 1"),
        ([1, "a"], "input", "`input` is a token array that has a string at place 1"),
        ([1, [2]], "input", "`input` is a token array that has an array at place 1"),
        ([[1], [[2]]], "input[1]", "`input[1]` is a token array that has an array at place 0"),
        ([["a"]], "input[0]", "`input[0]` is a token array that has a string at place 0"),
        ([[1, None]], "input[0]", "`input[0]` is a token array that has null at place 1"),
        ([-1, 2], "input", "`input` is a token array with a number that is negative"),
        ([[1], [2**31]], "input[1]", "`input[1]` is a token array with a number that is negative or above 2147483647"),
        ([10**30], "input", "`input` is a token array with a number that is negative or above"),
        (["a", [1]], "input[1]", "`input[1]` is a token array in a list of texts"),
        ([[1], "a"], "input[1]", "`input[1]` is text in a list of token arrays"),
        ([[1], {"text": "a"}], "input[1]", "`input[1]` is text in a list of token arrays"),
        ({}, "input", "`input` is an object without text or image; send an object such as"),
        ([{"text": None}], "input[0]", "`input[0]` is an object without text or image"),
        ({"instruction": "Find."}, "input", "`input` is an object without text or image"),
        ([{"text": 5}], "input[0].text", "`input[0].text` is a number; send a string"),
        ({"text": "a", "lang": "en"}, "input", "`input` has a key `lang`, which is not known; send an object such as"),
        ([{"video": "a.mp4"}], "input[0]", "`input[0]` has a key `video`, which is not known"),
        ({"text": "a", "image_url": "b"}, "input", "`input` has a key `image_url`, which is not known"),
        ({"x" * 60: 1}, "input", f"`input` has a key `{'x' * 50}`, which"),
        ({"image": ""}, "input.image", "`input.image` is an empty string; send a URL, a data URI or base64"),
        (["a", {"image": " "}], "input[1].image", "`input[1].image` is an empty string"),
        ({"image": {"url": "a"}}, "input.image", "`input.image` is an object; send a URL"),
        ([{"image": "x", "text": 1}], "input[0].text", "`input[0].text` is a number"),
        ([{"image": "x", "text": "\n"}], "input[0]", "`input[0]` holds nothing but line breaks"),
        ({"text": "a", "instruction": 1}, "input.instruction", "`input.instruction` is a number; send a string"),
        ({"text": "a", "instruction": "i" * 4001}, "input.instruction", "has 4001 characters; at most 4000 are taken"),
        ({"text": "a", "instruction": SURROGATE}, "input.instruction", "has half of a surrogate pair at character 0"),
        ([[1], {"image": "x"}], "input[1]", "`input[1]` is an image in a list of token arrays"),
        ([{"image": "x"}, [1]], "input[1]", "`input[1]` is a token array in a list of texts"),
        (["é", "é" + SURROGATE], "input[1]", "`input[1]` has half of a surrogate pair at character 1"),
        ({"text": SURROGATE}, "input", "`input` has half of a surrogate pair at character 0"),
        (object(), "input", "`input` is a value of unknown type"),
    ],
)
def test_what_cannot_be_taken_is_refused_naming_the_item(value: object, pointer: str, says: str) -> None:
    """Every refusal points at the item and says what is wrong with it."""
    failure = refusal(value)
    assert failure.pointer == pointer
    assert says in failure.message


@pytest.mark.parametrize(("value", "pointer"), [([1, 2], "input"), ([[1, 2]], "input[0]")])
def test_servers_that_take_no_token_arrays_tell_what_to_set(value: object, pointer: str) -> None:
    """The client library that sends token arrays unasked has a switch, and the refusal names it."""
    failure = refusal(value, RequestSettings(token_arrays="reject"))
    assert failure.pointer == pointer
    assert "check_embedding_ctx_length=False" in failure.message


def card(*allowed: int) -> ModelCard:
    return card_allowing(allowed)


def card_allowing(allowed: AllowedDimensions) -> ModelCard:
    shape = BertShape(1, 1024, 1, 1, 1, 1, 1, 1e-12, "gelu", 0)
    return ModelCard("acme/embedder", folder=None, shape=shape, pooling="cls", max_tokens=8, allowed_dimensions=allowed)  # type: ignore[arg-type]


def test_dimensions_may_be_left_out_or_be_one_of_the_list() -> None:
    """No model minds absent dimensions, and a listed size is taken."""
    check_dimensions(None, card())
    check_dimensions(None, card(64, 128))
    check_dimensions(128, card(64, 128))


@pytest.mark.parametrize("size", [0, -64, 100, 2048])
def test_dimensions_off_the_list_are_refused_with_the_list(size: int) -> None:
    """The message holds every size that would have been taken."""
    with pytest.raises(
        InvalidParameter, match=f"`dimensions` {size} is not offered by acme/embedder.* 64, 128"
    ) as caught:
        check_dimensions(size, card(64, 128))
    assert caught.value.pointer == "dimensions"


@pytest.mark.parametrize("size", [64, 65, 768, 1024])
def test_dimensions_may_be_any_whole_number_of_a_range(size: int) -> None:
    """Where a range is offered, both its ends and every number between are taken."""
    check_dimensions(size, card_allowing(range(64, 1025)))


@pytest.mark.parametrize("size", [0, -64, 63, 1025])
def test_dimensions_outside_a_range_are_refused_with_its_ends(size: int) -> None:
    """The message tells the least and the most that would have been taken."""
    with pytest.raises(
        InvalidParameter, match=f"`dimensions` {size} is not offered .* take any whole number from 64 to 1024"
    ) as caught:
        check_dimensions(size, card_allowing(range(64, 1025)))
    assert caught.value.pointer == "dimensions"


def test_dimensions_are_refused_by_models_of_one_size() -> None:
    """Even the native size is refused where the field is not supported, as by the real service."""
    with pytest.raises(InvalidParameter, match="not supported by acme/embedder, whose vectors have 1024"):
        check_dimensions(1024, card())
