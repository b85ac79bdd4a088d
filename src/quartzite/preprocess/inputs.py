"""Reads the `input` field of a request into items; knows neither tokenizers nor engines.

The form is checked here and nothing of the content: token ids are held against a vocabulary, and lengths against a
model's maximum, by `tokenise.py`.
"""

from collections.abc import Iterable, Iterator
from typing import NoReturn

import numpy as np

from quartzite.config import RequestSettings
from quartzite.domain import EmbeddingRequest, ImageItem, Item, TextItem, TokenItem
from quartzite.errors import InvalidParameter, TooManyItems
from quartzite.registry.card import AllowedDimensions, ModelCard

LANGCHAIN_HINT = "With LangChain's OpenAIEmbeddings set `check_embedding_ctx_length=False`, so that it sends text."

MOST_INSTRUCTION_CHARACTERS = 4_000

_CONTENT_KEYS = ("text", "image", "instruction")
_OBJECTS = 'an object such as {"text": "..."}, {"image": "URL or base64"} or both in one, with "instruction" if wanted'

_AN_INSTRUCTION = "an instruction, which only models for images have"

_JSON_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def read_items(value: object, settings: RequestSettings) -> tuple[Item, ...]:
    """Return the items of `value`, the decoded JSON of `input`, in their order.

    Taken: a string, an object with `text`, `image` or both and perhaps `instruction`, a token array (one item), a list
    of strings and objects, a list of token arrays. Raises TooManyItems for a list longer than `max_inputs_per_request`,
    and InvalidParameter, naming the item, for everything else.
    """
    if value is None:
        raise InvalidParameter("`input` is required.", "input")
    if not isinstance(value, list):
        return (_content_item(value, "input"),)
    if not value:
        raise InvalidParameter("`input` is an empty list; send at least one item.", "input")
    if isinstance(value[0], int | float):
        return (_token_item(value, "input", settings),)
    if len(value) > settings.max_inputs_per_request:
        raise TooManyItems(len(value), settings.max_inputs_per_request)
    items = tuple(_list_member(entry, f"input[{i}]", settings) for i, entry in enumerate(value))
    _refuse_mixture(items)
    return items


def check_dimensions(dimensions: int | None, card: ModelCard) -> None:
    """Raise InvalidParameter if `dimensions` is given and is none of the sizes that the model of `card` offers."""
    if dimensions is None or dimensions in card.allowed_dimensions:
        return
    if not card.allowed_dimensions:
        detail = f"`dimensions` is not supported by {card.name}, whose vectors have {card.dimensions}; leave it out."
    else:
        detail = f"`dimensions` {dimensions} is not offered by {card.name}; take {_named(card.allowed_dimensions)}."
    raise InvalidParameter(detail, "dimensions")


def _named(allowed: AllowedDimensions) -> str:
    if isinstance(allowed, range):
        return f"any whole number from {allowed[0]} to {allowed[-1]}"
    return f"one of {', '.join(map(str, allowed))}"


def check_contents(request: EmbeddingRequest, card: ModelCard, served: Iterable[ModelCard]) -> None:
    """Raise InvalidParameter if `request` holds what the model of `card` does not take; `served` are all there are."""
    for place, what in _refused(request, card.takes_images):
        if card.takes_images:
            _refuse(place, f"is {what}, and {card.name} takes texts and images only.")
        takers = [other.name for other in served if other.takes_images]
        there = f"here {', '.join(takers)} takes images" if takers else "no model served here takes images"
        _refuse(place, f"is {what}, and {card.name} takes texts only; {there}.")


def _refused(request: EmbeddingRequest, takes_images: bool) -> Iterator[tuple[str, str]]:
    """Yield the places of `request` that hold something which a model does not take, and what that is."""
    if takes_images:
        yield from [(item.pointer, "a token array") for item in request.items if isinstance(item, TokenItem)]
        return
    if request.instruction is not None:
        yield "instruction", _AN_INSTRUCTION
    for item in request.items:
        if isinstance(item, ImageItem):
            yield f"{item.pointer}.image", "an image"
        elif isinstance(item, TextItem) and item.instruction is not None:
            yield f"{item.pointer}.instruction", _AN_INSTRUCTION


def read_instruction(value: object, pointer: str = "instruction") -> str | None:
    """Return the instruction that `value`, decoded JSON, is; None if it is absent or blank.

    Raises InvalidParameter, naming `pointer`, if it is no string or longer than an instruction can be.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse(pointer, f"is {_kind(value)}; send a string.")
    if len(value) > MOST_INSTRUCTION_CHARACTERS:
        _refuse(pointer, f"has {len(value)} characters; at most {MOST_INSTRUCTION_CHARACTERS} are taken.")
    _refuse_lone_surrogate(value, pointer)
    return value.strip() or None


def _list_member(value: object, pointer: str, settings: RequestSettings) -> Item:
    return _token_item(value, pointer, settings) if isinstance(value, list) else _content_item(value, pointer)


def _content_item(value: object, pointer: str) -> TextItem | ImageItem:
    if isinstance(value, dict):
        return _object_item(value, pointer)
    if not isinstance(value, str):
        _refuse(pointer, f"is {_kind(value)}; send a string, {_OBJECTS}, or a token array.")
    _refuse_blank(value, pointer)
    return TextItem(value, pointer)


def _object_item(content: dict[str, object], pointer: str) -> TextItem | ImageItem:
    given = {key: value for key, value in content.items() if value is not None}
    if odd := next((key for key in given if key not in _CONTENT_KEYS), None):
        _refuse(pointer, f"has a key `{odd[:50]}`, which is not known; send {_OBJECTS}.")
    instruction = read_instruction(given.get("instruction"), f"{pointer}.instruction")
    text, image = given.get("text"), given.get("image")
    if image is None:
        if text is None:
            _refuse(pointer, f"is an object without text or image; send {_OBJECTS}.")
        return TextItem(_checked_text(text, pointer), pointer, instruction)
    if not isinstance(image, str) or not image.strip():
        fault = "is an empty string" if isinstance(image, str) else f"is {_kind(image)}"
        _refuse(f"{pointer}.image", f"{fault}; send a URL, a data URI or base64.")
    beside = "" if text in (None, "") else _checked_text(text, pointer)
    return ImageItem(image.strip(), beside, pointer, instruction)


def _checked_text(text: object, pointer: str) -> str:
    if not isinstance(text, str):
        _refuse(f"{pointer}.text", f"is {_kind(text)}; send a string.")
    _refuse_blank(text, pointer)
    return text


def _refuse_blank(text: str, pointer: str) -> None:
    if not text.strip("\r\n"):
        _refuse(pointer, "holds nothing but line breaks." if text else "is an empty string.")
    _refuse_lone_surrogate(text, pointer)


def _refuse_lone_surrogate(text: str, pointer: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse(pointer, f"has half of a surrogate pair at character {error.start}, which is not valid Unicode.")


def _token_item(ids: list[object], pointer: str, settings: RequestSettings) -> TokenItem:
    if settings.token_arrays == "reject":  # noqa: S105  a mode, no password
        _refuse(pointer, f"is a token array, and this server takes text only. {LANGCHAIN_HINT}")
    if not ids:
        _refuse(pointer, "is an empty token array.")
    if set(map(type, ids)) != {int}:
        place, odd = next((i, entry) for i, entry in enumerate(ids) if type(entry) is not int)
        _refuse(pointer, f"is a token array that has {_kind(odd)} at place {place}; it may hold integers only.")
    try:
        array = np.array(ids, dtype=np.int32)
        in_range = bool(array.min() >= 0)
    except OverflowError:
        in_range = False
    if not in_range:
        _refuse(pointer, "is a token array with a number that is negative or above 2147483647, which no token id is.")
    return TokenItem(array, pointer)


def _refuse_mixture(items: tuple[Item, ...]) -> None:
    of_tokens = isinstance(items[0], TokenItem)
    for item in items:
        if isinstance(item, TokenItem) != of_tokens:
            content = "an image" if isinstance(item, ImageItem) else "text"
            here, there = (content, "token arrays") if of_tokens else ("a token array", "texts")
            _refuse(item.pointer, f"is {here} in a list of {there}; send the two in separate requests.")


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), "a value of unknown type")


def _refuse(pointer: str, fault: str) -> NoReturn:
    raise InvalidParameter(f"`{pointer}` {fault}", pointer)
