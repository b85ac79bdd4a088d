"""What stands around the tokens of an item; knows neither tokenizers nor models."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from quartzite.domain import Ids, Item, Picture


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The ids before (`head`) and behind (`tail`) those of a text, which stay however much of the text is cut off.

    `lead` is text that is tokenised as one with that of the item, because tokens may reach from the one into the other;
    `lead_ids` are its ids where the beginning of the item's text is cut off. A `picture` begins at `head[picture_at]`.
    """

    head: Ids
    tail: Ids
    lead: str = ""
    lead_ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    picture: Picture | None = None
    picture_at: int = 0


class Framing(Protocol):
    """How one model frames its items."""

    def frame(self, item: Item, picture: Picture | None, instruction: str | None) -> Frame:
        """Return the frame of `item`; `picture` is what its image has become, `instruction` that of the request."""


class SpecialTokens:
    """The same special tokens around every item; there are neither pictures nor instructions."""

    def __init__(self, prefix: Ids, suffix: Ids) -> None:
        self._frame = Frame(prefix, suffix)

    def frame(self, item: Item, picture: Picture | None, instruction: str | None) -> Frame:  # noqa: ARG002
        """Return the one frame."""
        return self._frame
