"""Reads the `input` field of a request into items; knows neither tokenizers nor engines.

The form is checked here and nothing of the content: token ids are held against a vocabulary, and lengths against a
model's maximum, by `tokenise.py`.
"""

from typing import NoReturn

import numpy as np

from quartzite.config import RequestSettings
from quartzite.domain import Item, TextItem, TokenItem
from quartzite.errors import InvalidParameter, TooManyItems
from quartzite.registry.card import AllowedDimensions, ModelCard

LANGCHAIN_HINT = "With LangChain's OpenAIEmbeddings set `check_embedding_ctx_length=False`, so that it sends text."

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

    Taken: a string, an object `{"text": ...}`, a token array (one item), a list of strings and objects, a list of
    token arrays. Raises TooManyItems for a list longer than `max_inputs_per_request`, and InvalidParameter, naming
    the item, for everything else.
    """
    if value is None:
        raise InvalidParameter("`input` is required.", "input")
    if not isinstance(value, list):
        return (_text_item(value, "input"),)
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


def _list_member(value: object, pointer: str, settings: RequestSettings) -> Item:
    return _token_item(value, pointer, settings) if isinstance(value, list) else _text_item(value, pointer)


def _text_item(value: object, pointer: str) -> TextItem:
    text = _text_of(value, pointer) if isinstance(value, dict) else value
    if not isinstance(text, str):
        _refuse(pointer, f'is {_kind(text)}; send a string, an object {{"text": "..."}} or a token array.')
    if not text.strip("\r\n"):
        _refuse(pointer, "holds nothing but line breaks." if text else "is an empty string.")
    _refuse_lone_surrogate(text, pointer)
    return TextItem(text, pointer)


def _text_of(content: dict[str, object], pointer: str) -> str:
    if content.get("image") is not None:
        _refuse(pointer, "is an image; the models served here take text only.")
    text = content.get("text")
    if not isinstance(text, str):
        _refuse(pointer, 'is an object without a string `text`; send {"text": "..."}.')
    return text


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
    first = type(items[0])
    for item in items:
        if type(item) is not first:
            here, there = ("text", "token arrays") if first is TokenItem else ("a token array", "texts")
            _refuse(item.pointer, f"is {here} in a list of {there}; send the two in separate requests.")


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), "a value of unknown type")


def _refuse(pointer: str, fault: str) -> NoReturn:
    raise InvalidParameter(f"`{pointer}` {fault}", pointer)
