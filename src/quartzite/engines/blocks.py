"""Rows divided into blocks of equal length, over whose borders no item lies. Pure; knows no engine.

Attention compares every place of a block with every other, so within blocks it costs less than over a whole row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quartzite.engines.base import MicroBatchShape


class Blocks:
    """The places that are still free in the blocks of one row; each item goes where it leaves least room."""

    def __init__(self, row: int, block: int) -> None:
        self._block = block
        self._room = [block] * (row // block)

    @property
    def largest(self) -> int:
        """Most tokens that an item may have to find room now."""
        return max(self._room)

    def put(self, tokens: int) -> int:
        """Give an item of at most `largest` tokens its places; return the first of them, counted along the row."""
        room, number = min((room, number) for number, room in enumerate(self._room) if room >= tokens)
        self._room[number] -= tokens
        return (number + 1) * self._block - room


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the items of a micro-batch lie: item i from place `starts[i]` on, in a row of `length` places.

    Attention stays within each `block` of so many places; an undivided row is one block.
    """

    length: int
    block: int
    starts: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Number of blocks, and places in each."""
        return self.length // self.block, self.block


def end_to_end(sizes: Iterable[int], length: int) -> Layout:
    """Return the layout of items of `sizes` tokens one behind the other in an undivided row."""
    starts, end = [], 0
    for tokens in sizes:
        starts.append(end)
        end += tokens
    return Layout(length, length, tuple(starts))


def cheapest_layout(sizes: Sequence[int], shape: MicroBatchShape) -> Layout:
    """Return how items of `sizes` tokens, that `shape` takes together, had best lie.

    Blocks are tried in the order given, as whoever chose the items will have filled them, and from large to small.
    """
    tokens = sum(sizes)
    undivided = next(length for length in shape.buckets if length >= tokens)
    for block, price in shape.blocks:
        if shape.tokens * price < undivided and (starts := _in_blocks(sizes, shape.tokens, block)):
            return Layout(shape.tokens, block, starts)
    return end_to_end(sizes, undivided)


def _in_blocks(sizes: Sequence[int], length: int, block: int) -> tuple[int, ...]:
    """Return the place of each item's first token; empty if not all of them are found room."""
    given = range(len(sizes))
    for order in (given, sorted(given, key=lambda place: -sizes[place])):
        blocks, starts = Blocks(length, block), [0] * len(sizes)
        for place in order:
            if sizes[place] > blocks.largest:
                break
            starts[place] = blocks.put(sizes[place])
        else:
            return tuple(starts)
    return ()
