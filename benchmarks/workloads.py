"""What is sent: workloads drawn from real text, half English and half Chinese, measured in tokens of the model at hand.

Texts are cut to the model's limit here, since not every server cuts them; so all servers compute the same tokens.
"""

import base64
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from client import post
from quartzite.config import ImageSettings
from quartzite.preprocess.decode import SIDE, model_size
from texts import chinese, english

PATH = "/v1/embeddings"
MODEL = "bench"
QUERY_TOKENS = (8, 32)
CHUNK_TOKENS = (20, 512)
EVEN_TOKENS = 128
LONG_TOKENS = 8192
LIST = 32
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\n|(?<=[。！？!?；])")
DRAWN_AT_ONCE = 512


@dataclass(frozen=True)
class Batch:
    """The requests of one round and the tokens of each, special tokens included."""

    requests: list[bytes]
    tokens: list[int]


class Ruler:
    """Counts and cuts texts in tokens of one model, of which it takes `max_tokens` at most."""

    def __init__(self, tokenizer: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]

    def cut(self, text: str, tokens: int) -> tuple[str, str]:
        """Return the beginning of `text` that has `tokens` tokens at most, special tokens included, and the rest."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        room = tokens - self._tokenizer.num_special_tokens_to_add(False)
        while len(offsets) > room > 0:
            end = offsets[room - 1][1]
            # Cut where it is, a text may have other tokens at its end than it had there.
            if self.counts([text[:end]])[0] <= tokens:
                return text[:end], text[end:]
            room -= 1
        return text, ""

    def between(self, texts: Iterable[str], fewest: int, most: int) -> Iterator[tuple[str, int]]:
        """Yield those texts that have as many tokens, and how many."""
        for some in _batched(texts, DRAWN_AT_ONCE):
            yield from (pair for pair in zip(some, self.counts(some), strict=True) if fewest <= pair[1] <= most)


class Source:
    """Draws texts that no round before has had, until the corpus is used up; then it begins anew."""

    def __init__(self, ruler: Ruler, cache: Path) -> None:
        self._ruler = ruler
        corpus = [english(), chinese(cache)]
        self._queries = _alternating([itertools.cycle(_sentences(texts)) for texts in corpus])
        self._chunks = _alternating([self._pieces(itertools.cycle(texts)) for texts in corpus])
        self._streams = _alternating([_joined(texts) for texts in corpus])
        fewest, most = QUERY_TOKENS
        self._short = ruler.between(self._queries, fewest, most)
        self._dice = np.random.default_rng(0)

    def queries(self, count: int) -> Batch:
        """Return `count` single sentences of 8 to 32 tokens."""
        drawn = list(itertools.islice(self._short, count))
        return Batch([_request(text) for text, _ in drawn], [tokens for _, tokens in drawn])

    def repeated_queries(self, count: int, of: int) -> Batch:
        """Return `count` queries out of `of` new ones by Zipf's law: the n-th comes 1/n times as often as the first."""
        drawn = self.queries(of)
        shares = 1 / np.arange(1, of + 1)
        places = self._dice.choice(of, count, p=shares / shares.sum())
        return Batch([drawn.requests[place] for place in places], [drawn.tokens[place] for place in places])

    def chunks(self, lists: int) -> Batch:
        """Return lists of 32 texts of 20 to 512 tokens: docstrings and reviews as they are, long ones in pieces."""
        return _in_lists(list(itertools.islice(self._chunks, lists * LIST)))

    def bulk(self, lists: int) -> Batch:
        """Return lists of 32 texts that each have 512 tokens or as many as the model takes."""
        most = min(CHUNK_TOKENS[1], self._ruler.max_tokens)
        return _in_lists([self._full(most) for _ in range(lists * LIST)])

    def even(self, lists: int) -> Batch:
        """Return lists of 32 texts that each have 128 tokens."""
        return _in_lists([self._full(EVEN_TOKENS) for _ in range(lists * LIST)])

    def long(self, count: int) -> Batch:
        """Return `count` single texts of 8192 tokens."""
        drawn = [self._full(LONG_TOKENS) for _ in range(count)]
        return Batch([_request(text) for text, _ in drawn], [tokens for _, tokens in drawn])

    def pictures(self, count: int, width: int, height: int) -> Batch:
        """Return `count` single pictures in JPEG, of which each `width` x `height` becomes as many image tokens."""
        tokens = _image_tokens(width, height)
        return Batch([_request({"image": self._picture(width, height)}) for _ in range(count)], [tokens] * count)

    def _picture(self, width: int, height: int) -> str:
        """Return a picture of soft colours under a little noise, in base64: about as large a file as a photograph's."""
        coarse = Image.fromarray(self._dice.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = self._dice.integers(-12, 13, soft.shape, dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray((soft + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
        return base64.b64encode(file.getvalue()).decode()

    def _full(self, tokens: int) -> tuple[str, int]:
        text = ""
        while self._ruler.counts([text])[0] < tokens:
            text += next(self._streams) + "\n\n"
        text = self._ruler.cut(text, tokens)[0]
        return text, self._ruler.counts([text])[0]

    def _pieces(self, texts: Iterable[str]) -> Iterator[tuple[str, int]]:
        most = min(CHUNK_TOKENS[1], self._ruler.max_tokens)
        for some in _batched(texts, DRAWN_AT_ONCE):
            for text, tokens in zip(some, self._ruler.counts(some), strict=True):
                yield from self._ruler.between([text] if tokens <= most else self._parts(text, most), *CHUNK_TOKENS)

    def _parts(self, text: str, most: int) -> Iterator[str]:
        while text:
            part, text = self._ruler.cut(text, most)
            yield part


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (" ".join(part.split()) for part in SENTENCE_END.split(text) if part.strip())


def _joined(texts: Sequence[str], together: int = 8) -> Iterator[str]:
    for some in _batched(itertools.cycle(texts), together):
        yield "\n\n".join(some)


def _in_lists(drawn: Sequence[tuple[str, int]]) -> Batch:
    lists = list(_batched(drawn, LIST))
    return Batch(
        [_request([text for text, _ in some]) for some in lists], [sum(tokens for _, tokens in some) for some in lists]
    )


def _image_tokens(width: int, height: int) -> int:
    settings = ImageSettings()
    columns, rows = model_size(width, height, settings.min_pixels, settings.max_pixels)
    return columns * rows // SIDE**2


def _request(given: str | list[str] | dict[str, str]) -> bytes:
    return post(PATH, {"model": MODEL, "input": given, "encoding_format": "float"})


def _alternating(streams: Sequence[Iterator]) -> Iterator:
    while True:
        for stream in streams:
            yield next(stream)


def _batched(items: Iterable, size: int) -> Iterator[list]:
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some
