"""Where a run keeps keys and values for attention: blocks of tokens, which a long item has in every layer.

Knows the inputs of `paged.PagedAttention` by their names, and nothing of graphs.
"""

from typing import Any

import openvino as ov

BLOCK_TOKENS = 32
"""Tokens of a block: the one length that the plugin knows on processors."""
KEYS, VALUES, BLOCKS = "keys.{}", "values.{}", "block_indices"
"""Names of the inputs: the blocks of each layer's keys and values, and the numbers of those that a row uses."""


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
        self._keeps = False

    def hold(self, blocks: int) -> None:
        """Have room for a row that uses `blocks`."""
        if blocks > self._blocks:
            self._share(blocks)

    def keep(self, tokens: int) -> None:
        """Have every layer keep the keys and values of an item of so many tokens, row by row, until `forget`."""
        # The item's own blocks, and one for the tail of its last row.
        self._blocks, self._keeps = 2 + tokens // BLOCK_TOKENS, True
        for ports in self._inputs:
            for port in ports:
                self._request.set_tensor(port, _memory(port, self._blocks))

    def forget(self) -> None:
        """Let go of what was kept, and of its memory."""
        if self._keeps:
            self._share(1)

    def _share(self, blocks: int) -> None:
        self._blocks, self._keeps = blocks, False
        for ports in self._inputs:
            memory = _memory(ports[0], blocks)
            for port in ports:
                self._request.set_tensor(port, memory)


def _memory(port: Any, blocks: int) -> ov.Tensor:
    heads, tokens, size = (port.partial_shape[axis].get_length() for axis in (1, 2, 3))
    return ov.Tensor(port.element_type, ov.Shape([blocks, heads, tokens, size]))
