"""Values that travel between the parts; knows the errors and numpy, nothing else.

Shape legend, used everywhere: B items of a micro-batch or request · n tokens of one item · T tokens of a packed
micro-batch · D native dimensions of a model · d requested dimensions · H attention heads.
"""

from dataclasses import dataclass, field
from datetime import date
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

PATCH_PIXELS = 16
"""Side of the square of pixels that is one patch; four patches, two by two, become one image token."""

Ids = NDArray[np.int32]
Vectors = NDArray[np.float32]
Encoding = Literal["float", "base64"]
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class TextItem:
    """One input given as text; `pointer` is its place in the request (`input`, `input[3]`), for messages.

    `instruction` is its own, for models that take one; it goes before that of the request.
    """

    text: str
    pointer: str = "input"
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One input with a picture, and perhaps a text beside it; `image` is a URL, a data URI or base64, unread so far."""

    image: str
    text: str = ""
    pointer: str = "input"
    instruction: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TokenItem:
    """One input given as token ids of the model's own vocabulary, int32 (n,), and its place in the request."""

    ids: Ids
    pointer: str = "input"


Item = TextItem | ImageItem | TokenItem


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request whose form has been checked, before any model has been asked.

    `dimensions`, `truncate`, `user` and `instruction` are None when the client left them out; `user` is an opaque
    string.
    """

    model: str
    items: tuple[Item, ...]
    encoding: Encoding = "float"
    dimensions: int | None = None
    truncate: Side | None = None
    user: str | None = None
    instruction: str | None = None

    @property
    def images(self) -> int:
        """Number of items with an image."""
        return sum(isinstance(item, ImageItem) for item in self.items)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image as the model sees it: RGB bytes uint8 (height, width, 3), both sides multiples of 32 pixels."""

    pixels: NDArray[np.uint8]

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width, _ = self.pixels.shape
        return height // PATCH_PIXELS, width // PATCH_PIXELS

    @property
    def tokens(self) -> int:
        """Image tokens it becomes: one for every two by two patches."""
        rows, columns = self.patches
        return rows * columns // 4


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One item as the engine takes it: token ids int32 (n,), special tokens included, 1 <= n <= the model's maximum.

    With a `picture`, `picture_at` is the place in `ids` of the first of its `picture.tokens` image tokens. Items with
    the same `fingerprint` are equal and have the same vector; one without is compared with none.
    """

    ids: Ids
    picture: Picture | None = None
    picture_at: int = 0
    fingerprint: bytes = field(default=b"", kw_only=True)

    @property
    def tokens(self) -> int:
        """Number of tokens n, as counted in usage and in budgets."""
        return len(self.ids)


class Timings(NamedTuple):
    """Where the time of one request went, in seconds; `pictures_s` for fetching and decoding them."""

    tokenise_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    pictures_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The answer to one request: unit-length vectors float32 (B, d) in input order, and the tokens it used."""

    model: str
    vectors: Vectors
    encoding: Encoding
    tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class Depth:
    """How much work there is: `tokens` and `requests` that wait, and micro-batches `running`."""

    tokens: int
    requests: int
    running: int


class MicroBatchRun(NamedTuple):
    """One micro-batch that has been in the engine: what it held, what its bucket added, and how it went.

    `tokens` counts those of its `items`, `padding_tokens` the places computed without one, `engine_s` its seconds in
    the engine; `failed` when at least one of its items got no embedding; `repeats` counts items equal to its own that
    got one as well.
    """

    items: int
    tokens: int
    padding_tokens: int
    engine_s: float
    failed: bool
    repeats: int = 0


ModelState = Literal["healthy", "degraded", "failing", "lost", "broken", "stopped", "loading", "unloading"]
"""How a model is.

`healthy` it answers; `degraded` it answers with fewer streams than it has; `failing` its engine failed on everything
lately; `lost` every stream hangs in the engine; `broken` its scheduling failed; `stopped` it accepts no requests;
`loading` it is not served yet; `unloading` it is served no more, and answers the requests that it has.
"""
MODEL_STATES: tuple[ModelState, ...] = get_args(ModelState)


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """The state of a model, and how many of its `streams` are lost: busy for longer than any request was given."""

    state: ModelState
    streams: int
    lost_streams: int

    @property
    def usable(self) -> bool:
        """Whether requests can be answered."""
        return self.state in {"healthy", "degraded"}


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """That a model should be used no more: since or from `deprecated`, and that it ends on `sunset`, days of UTC.

    `link` is the address of a page about it. What is not known is None.
    """

    deprecated: date | None = None
    sunset: date | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a limit still leaves: `remaining` of `limit` requests or tokens, whole again in `reset_s` seconds."""

    limit: int
    remaining: int
    reset_s: float


class Outcome(NamedTuple):
    """What became of one request, in counts and times without content; what is not known is None or 0.

    `status` and `code` are those of the answer; `total_s` runs from the arrival to the answer being ready.
    """

    status: int
    code: int | None
    model: str | None
    user: str | None
    items: int
    tokens: int
    timings: Timings
    total_s: float
    images: int = 0
