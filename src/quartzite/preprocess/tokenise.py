"""Turns items into the token ids of one model, cut to its maximum; knows nothing of requests, queues or engines."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from tokenizers import Tokenizer

from quartzite.domain import Encoded, Ids, Item, Picture, Side, TextItem, TokenItem
from quartzite.errors import InvalidParameter, ModelRefused
from quartzite.preprocess.chat import ChatPrompt
from quartzite.preprocess.cuts import cut_pattern, next_cut
from quartzite.preprocess.frames import Frame, Framing, SpecialTokens
from quartzite.preprocess.inputs import LANGCHAIN_HINT

_NO_IDS: Ids = np.empty(0, np.int32)

# Prose has 1 to 5 characters per token, so one piece of this many per token of the maximum is nearly always enough.
_PIECE_CHARACTERS_PER_TOKEN = 6

# At most the larger of the two is read of one text: this bounds the time that a text made to be slow can take.
_MOST_CHARACTERS_PER_TOKEN = 12
_MOST_CHARACTERS = 200_000

# Texts are handed to the library together until they have so many characters: this bounds its memory.
_BATCH_CHARACTERS = 200_000

_FINGERPRINT_BYTES = 16


class Tokeniser:
    """Tokenises for one model; may be called by several threads at the same time.

    `file` is a tokenizer.json, `max_tokens` counts special tokens, `vocabulary` is the number of rows of the model's
    embedding table, `image_token` the id at the places of images, if the model takes images, in a chat prompt. Raises
    ModelRefused if the file cannot be read or does not fit the model.
    """

    def __init__(self, file: Path, max_tokens: int, vocabulary: int, image_token: int | None = None) -> None:
        # Requests are tokenised side by side; threads of the library's own would only take cores from the engine.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = _load(file, vocabulary)
        self._framing = _framing(self._tokenizer, file, image_token)
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        frame = self._framing.frame(TextItem("a"), None, None)
        if self._room(frame) <= len(frame.lead_ids):
            raise ModelRefused(f"{file}: a maximum of {max_tokens} tokens leaves no room beside the special tokens")
        self._cuts = cut_pattern(self._tokenizer)
        self._piece_characters = _PIECE_CHARACTERS_PER_TOKEN * max_tokens
        self._most_characters = max(_MOST_CHARACTERS, _MOST_CHARACTERS_PER_TOKEN * max_tokens)

    def encode(
        self,
        items: Sequence[Item],
        truncate: Side | None,
        pictures: Sequence[Picture | None] | None = None,
        instruction: str | None = None,
    ) -> list[Encoded]:
        """Return the token ids of `items`, in order, each in the frame of the model.

        `pictures` are what their images have become, `instruction` is that of the request. A text above the maximum
        is cut to it, keeping its beginning (`right`) or its end (`left`) and all of the frame: just what cutting the
        tokens of the whole would give. Raises InvalidParameter, naming the item, if it is too long and `truncate` is
        None, if too much of it would have to be read to find that out, if its frame alone is too long, or if it has
        ids outside the vocabulary. CPU-bound; releases the interpreter lock for nearly all of its time.
        """
        readings = [
            self._reading(item, self._framing.frame(item, picture, instruction), truncate or "right")
            for item, picture in zip(items, pictures or [None] * len(items), strict=True)
        ]
        unfinished = readings
        while unfinished := [r for r in unfinished if not r.whole and len(r.ids) <= r.room]:
            encodings = self._tokenizer.encode_batch_fast(self._next_pieces(unfinished), add_special_tokens=False)
            for reading, encoding in zip(unfinished, encodings, strict=False):
                reading.add(encoding.ids)
        return [self._encoded(reading, truncate) for reading in readings]

    def _room(self, frame: Frame) -> int:
        """Return how many tokens `frame` leaves for a text and its lead."""
        return self._max_tokens - len(frame.head) - len(frame.tail)

    def _reading(self, item: Item, frame: Frame, truncate: Side) -> "_Reading":
        room = self._room(frame)
        if isinstance(item, TokenItem):
            self._check_vocabulary(item)
            return _Reading(item.pointer, truncate, frame, room, ids=_without_frame(item.ids, frame))
        if room < len(frame.lead_ids) + bool(item.text):
            self._refuse_frame(item.pointer, self._max_tokens - room)
        return _Reading(item.pointer, truncate, frame, room, text=frame.lead + item.text)

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
                f"`{reading.pointer}` has {reading.characters} characters. At most {limit} of them are read, and those "
                f"hold fewer than {self._max_tokens} tokens or no place where the text may be cut. Shorten it, above "
                "all its runs without spaces or of nothing but spaces.",
                reading.pointer,
            )
        return reading.advance(len(text) if until is None else until)

    def _encoded(self, reading: "_Reading", truncate: Side | None) -> Encoded:
        frame, ids = reading.frame, reading.ids
        if len(ids) > reading.room:
            if truncate is None:
                self._refuse_length(reading)
            ids = _cut(ids, frame, reading.room, truncate)
        framed = np.concatenate((frame.head, ids, frame.tail))
        if not len(framed):
            raise InvalidParameter(f"`{reading.pointer}` has no tokens.", reading.pointer)
        return Encoded(framed, frame.picture, frame.picture_at, fingerprint=_fingerprint(framed, frame.picture))

    def _refuse_frame(self, pointer: str, tokens: int) -> NoReturn:
        raise InvalidParameter(
            f"`{pointer}` has {tokens} tokens without its text: its picture, the instruction and the prompt around "
            f"them. The model takes at most {self._max_tokens}. Send a smaller picture or a shorter instruction.",
            pointer,
        )

    def _refuse_length(self, reading: "_Reading") -> NoReturn:
        if reading.whole:
            tokens = len(reading.ids) + self._max_tokens - reading.room
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

    `text` begins with the lead of its `frame`, `room` is how many tokens may become of it. `read` counts characters
    from the beginning (`right`) or from the end (`left`); a token array has no text left.
    """

    pointer: str
    truncate: Side
    frame: Frame
    room: int
    text: str = ""
    ids: Ids = field(default_factory=lambda: _NO_IDS)
    read: int = 0

    @property
    def whole(self) -> bool:
        """Whether `ids` are all that the item has."""
        return self.read == len(self.text)

    @property
    def characters(self) -> int:
        """How many characters the text of the item has."""
        return len(self.text) - len(self.frame.lead)

    def advance(self, until: int) -> str:
        """Return the text between what has been read and `until`, and count it as read."""
        start, self.read = self.read, until
        if self.truncate == "right":
            return self.text[start:until]
        return self.text[len(self.text) - until : len(self.text) - start]

    def add(self, ids: list[int]) -> None:
        """Put the ids of the piece just read beside those read before."""
        new = np.array(ids, dtype=np.int32)
        if not len(self.ids):
            self.ids = new
            return
        self.ids = np.concatenate((self.ids, new) if self.truncate == "right" else (new, self.ids))


def _fingerprint(ids: Ids, picture: Picture | None) -> bytes:
    """Return a digest of all that a vector is made of: that two items share one is beyond finding for anybody."""
    digest = hashlib.blake2b(ids.data, digest_size=_FINGERPRINT_BYTES)
    if picture:
        digest.update(repr(picture.pixels.shape).encode())
        digest.update(np.ascontiguousarray(picture.pixels).data)
    return digest.digest()


def _cut(ids: Ids, frame: Frame, room: int, truncate: Side) -> Ids:
    """Return the `room` first ids, or the lead of `frame` and the last ones."""
    if truncate == "right":
        return ids[:room]
    return np.concatenate((frame.lead_ids, ids[len(ids) - room + len(frame.lead_ids) :]))


def _without_frame(ids: Ids, frame: Frame) -> Ids:
    """Take off the special tokens of the model where a token array brings them along."""
    start, end = len(frame.head), len(ids) - len(frame.tail)
    if not np.array_equal(ids[:start], frame.head):
        start = 0
    if not np.array_equal(ids[end:], frame.tail):
        end = len(ids)
    return ids[start:end]


def _framing(tokenizer: Tokenizer, file: Path, image_token: int | None) -> Framing:
    prefix, suffix = _special_tokens(tokenizer, file)
    if image_token is None:
        return SpecialTokens(prefix, suffix)
    return ChatPrompt(tokenizer, file, image_token, np.concatenate((prefix, suffix)))


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
