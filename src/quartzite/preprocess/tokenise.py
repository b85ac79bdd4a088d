"""Turns items into the token ids of one model, cut to its maximum; knows nothing of requests, queues or engines."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from tokenizers import Tokenizer

from quartzite.domain import Encoded, Ids, Item, Side, TextItem, TokenItem
from quartzite.errors import InvalidParameter, ModelRefused
from quartzite.preprocess.cuts import cut_pattern, next_cut
from quartzite.preprocess.inputs import LANGCHAIN_HINT

# Prose has 1 to 5 characters per token, so one piece of this many per token of the maximum is nearly always enough.
_PIECE_CHARACTERS_PER_TOKEN = 6

# At most the larger of the two is read of one text: this bounds the time that a text made to be slow can take.
_MOST_CHARACTERS_PER_TOKEN = 12
_MOST_CHARACTERS = 200_000

# Texts are handed to the library together until they have so many characters: this bounds its memory.
_BATCH_CHARACTERS = 200_000


class Tokeniser:
    """Tokenises for one model; may be called by several threads at the same time.

    `file` is a tokenizer.json, `max_tokens` counts special tokens, `vocabulary` is the number of rows of the model's
    embedding table. Raises ModelRefused if the file cannot be read or does not fit the model.
    """

    def __init__(self, file: Path, max_tokens: int, vocabulary: int) -> None:
        # Requests are tokenised side by side; threads of the library's own would only take cores from the engine.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = _load(file, vocabulary)
        self._prefix, self._suffix = _special_tokens(self._tokenizer, file)
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise ModelRefused(f"{file}: a maximum of {max_tokens} tokens leaves no room beside the special tokens")
        self._cuts = cut_pattern(self._tokenizer)
        self._piece_characters = _PIECE_CHARACTERS_PER_TOKEN * max_tokens
        self._most_characters = max(_MOST_CHARACTERS, _MOST_CHARACTERS_PER_TOKEN * max_tokens)

    def encode(self, items: Sequence[Item], truncate: Side | None) -> list[Encoded]:
        """Return the token ids of `items`, in order, each between the special tokens of the model.

        An item above the maximum is cut to it, keeping its beginning (`right`) or its end (`left`) and all special
        tokens: just what cutting the tokens of the whole text would give. Raises InvalidParameter, naming the item,
        if it is too long and `truncate` is None, if too much of it would have to be read to find that out, or if it
        has ids outside the vocabulary. CPU-bound; releases the interpreter lock for nearly all of its time.
        """
        readings = [self._reading(item, truncate or "right") for item in items]
        unfinished = readings
        while unfinished := [r for r in unfinished if not r.whole and len(r.ids) <= self._room]:
            encodings = self._tokenizer.encode_batch_fast(self._next_pieces(unfinished), add_special_tokens=False)
            for reading, encoding in zip(unfinished, encodings, strict=False):
                reading.add(encoding.ids)
        return [self._encoded(reading, truncate) for reading in readings]

    def _reading(self, item: Item, truncate: Side) -> "_Reading":
        if isinstance(item, TextItem):
            return _Reading(item.pointer, truncate, text=item.text)
        self._check_vocabulary(item)
        return _Reading(item.pointer, truncate, ids=self._without_special_tokens(item.ids))

    def _check_vocabulary(self, item: TokenItem) -> None:
        outside = np.flatnonzero((item.ids < 0) | (item.ids >= self._vocabulary))
        if len(outside):
            place = outside[0]
            raise InvalidParameter(
                f"`{item.pointer}` is a token array with id {item.ids[place]} at place {place}, and the model's "
                f"vocabulary ends at {self._vocabulary - 1}. Token arrays must come from the model's own tokenizer. "
                f"{LANGCHAIN_HINT}",
                item.pointer,
            )

    def _without_special_tokens(self, ids: Ids) -> Ids:
        """Take off the special tokens of the model where a token array brings them along."""
        start, end = len(self._prefix), len(ids) - len(self._suffix)
        if not np.array_equal(ids[:start], self._prefix):
            start = 0
        if not np.array_equal(ids[end:], self._suffix):
            end = len(ids)
        return ids[start:end]

    def _next_pieces(self, readings: Sequence["_Reading"]) -> list[str]:
        """Return the next pieces of the first `readings`, of as many as make one batch."""
        pieces: list[str] = []
        for reading in readings:
            pieces.append(self._next_piece(reading))
            if sum(map(len, pieces)) >= _BATCH_CHARACTERS:
                break
        return pieces

    def _next_piece(self, reading: "_Reading") -> str:
        """Return the next characters of a text to tokenise, up to a place where tokens of the whole text end too."""
        text, enough = reading.text, reading.read + self._piece_characters
        if enough >= len(text):
            return reading.advance(len(text))
        limit = min(len(text), self._most_characters)
        until = next_cut(self._cuts, text, enough, limit, reading.truncate) if self._cuts else None
        if until is None and len(text) > limit:
            raise InvalidParameter(
                f"`{reading.pointer}` has {len(text)} characters. At most {limit} of them are read, and those hold "
                f"fewer than {self._max_tokens} tokens or no place where the text may be cut. Shorten it, above all "
                "its runs without spaces or of nothing but spaces.",
                reading.pointer,
            )
        return reading.advance(len(text) if until is None else until)

    def _encoded(self, reading: "_Reading", truncate: Side | None) -> Encoded:
        ids = reading.ids
        if len(ids) > self._room and truncate is None:
            self._refuse_length(reading)
        kept = ids[-self._room :] if truncate == "left" else ids[: self._room]
        framed = np.concatenate((self._prefix, kept, self._suffix))
        if not len(framed):
            raise InvalidParameter(f"`{reading.pointer}` has no tokens.", reading.pointer)
        return Encoded(framed)

    def _refuse_length(self, reading: "_Reading") -> NoReturn:
        if reading.whole:
            tokens = len(reading.ids) + self._max_tokens - self._room
            excess = f"{tokens} tokens, and the model takes at most {self._max_tokens}"
        else:
            excess = f"more than {self._max_tokens} tokens, the most that the model takes"
        raise InvalidParameter(
            f"`{reading.pointer}` has {excess} (special tokens included). Shorten it, or set "
            '`truncate` to "right" to keep its beginning or to "left" to keep its end.',
            reading.pointer,
        )


@dataclass(slots=True, eq=False)
class _Reading:
    """One item on its way to ids: how far its text has been read from the end that is kept, and the ids so far.

    `read` counts characters from the beginning (`right`) or from the end (`left`); a token array has no text left.
    """

    pointer: str
    truncate: Side
    text: str = ""
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    read: int = 0

    @property
    def whole(self) -> bool:
        """Whether `ids` are all that the item has."""
        return self.read == len(self.text)

    def advance(self, until: int) -> str:
        """Return the text between what has been read and `until`, and count it as read."""
        start, self.read = self.read, until
        if self.truncate == "right":
            return self.text[start:until]
        return self.text[len(self.text) - until : len(self.text) - start]

    def add(self, ids: list[int]) -> None:
        """Put the ids of the piece just read beside those read before."""
        new = np.array(ids, dtype=np.int32)
        self.ids = np.concatenate((self.ids, new) if self.truncate == "right" else (new, self.ids))


def _load(file: Path, vocabulary: int) -> Tokenizer:
    """Read tokenizer.json without the truncation and padding that it may hold: lengths are decided here."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no class of its own
        raise ModelRefused(f"{file} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > vocabulary:
        raise ModelRefused(
            f"{file} has {tokenizer.get_vocab_size()} tokens and the model's embedding table only {vocabulary} rows: "
            "they do not belong together"
        )
    return tokenizer


def _special_tokens(tokenizer: Tokenizer, file: Path) -> tuple[Ids, Ids]:
    """Return the ids that the tokenizer puts before and after every text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True)
    mask = framed.special_tokens_mask
    start = mask.index(0) if 0 in mask else len(mask)
    end = start + len(bare)
    if not bare or framed.ids[start:end] != bare:
        raise ModelRefused(f"{file}: its special tokens cannot be told from those of the text between them")
    return np.array(framed.ids[:start], dtype=np.int32), np.array(framed.ids[end:], dtype=np.int32)
