"""Where a run keeps keys and values for attention: blocks of tokens, which a long item has in every layer.

Knows the inputs of `paged.PagedAttention` by their names, and nothing of graphs.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

BLOCK_TOKENS = 32
"""Tokens of a block: the one length that the plugin knows on processors."""
KEYS, VALUES, BLOCKS = "keys.{}", "values.{}", "block_indices"
"""Names of the inputs: the blocks of each layer's keys and values, and the numbers of those that a row uses."""

GIVING_BACK = "give back blocks"
"""Name of the thread that does so after a long item."""


class Caches:
    """The blocks of one infer request; where its graph has none, all of this does nothing.

    Rows of whole items need keys and values of one layer at a time, so all layers share the same blocks.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        names = KEYS.format(""), VALUES.format("")
        of_each = [[port for port in request.model_inputs if port.any_name.startswith(name)] for name in names]
        self._inputs = [ports for ports in of_each if ports]
        self._blocks = 0
        self._kept: list[ov.Tensor] = []

    def hold(self, blocks: int) -> None:
        """Have room for a row that uses `blocks`."""
        if blocks > self._blocks:
            self._share(blocks)

    def hold_for(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Have room for the row of the inputs `arrays`, if it uses blocks."""
        if BLOCKS in arrays:
            self.hold(len(arrays[BLOCKS]))

    def keep(self, tokens: int) -> None:
        """Have every layer keep the keys and values of an item of so many tokens, row by row, until `forget`."""
        # The item's own blocks, and one for the tail of its last row.
        self._blocks = 2 + tokens // BLOCK_TOKENS
        for port in (port for ports in self._inputs for port in ports):
            self._kept.append(_memory(port, self._blocks))
            self._request.set_tensor(port, self._kept[-1])

    def forget(self) -> None:
        """Let go of what was kept; its memory is given back on a thread, since that can take a tenth of a second."""
        if self._kept:
            kept, self._kept = self._kept, []
            self._share(1)
            threading.Thread(target=_give_back, args=(kept,), name=GIVING_BACK).start()

    def _share(self, blocks: int) -> None:
        self._blocks = blocks
        for ports in self._inputs:
            memory = _memory(ports[0], blocks)
            for port in ports:
                self._request.set_tensor(port, memory)


def _give_back(kept: list[ov.Tensor]) -> None:
    """Empty `kept` piece by piece: other threads have their turn in between."""
    while kept:
        kept.pop()


def _memory(port: Any, blocks: int) -> ov.Tensor:
    heads, tokens, size = (port.partial_shape[axis].get_length() for axis in (1, 2, 3))
    return ov.Tensor(port.element_type, ov.Shape([blocks, heads, tokens, size]))
