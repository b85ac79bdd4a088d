"""The poolings in plain numpy: the reference that graphs are checked against. Knows nothing of graphs and models.

In all of them `states` is float32 (B, T, D), the token states a model ends in; `mask` is (B, T), 1 for a token of the
item and 0 for padding on either side; the result is float32 (B, D). A row without tokens raises ValueError.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from quartzite.domain import Vectors

States = NDArray[np.float32]
Mask = NDArray[np.integer]


def pool_cls(states: States, mask: Mask) -> Vectors:
    """Return the state of each item's first token."""
    first = _tokens(mask).argmax(axis=1)
    pooled: Vectors = states[np.arange(len(states)), first]
    return pooled


def pool_last(states: States, mask: Mask) -> Vectors:
    """Return the state of each item's last token, found by the mask and never by its id."""
    last = mask.shape[1] - 1 - _tokens(mask)[:, ::-1].argmax(axis=1)
    pooled: Vectors = states[np.arange(len(states)), last]
    return pooled


def pool_mean(states: States, mask: Mask) -> Vectors:
    """Return the mean over each item's tokens, summed in float64."""
    weights = _tokens(mask).astype(np.float64)
    sums = np.einsum("btd,bt->bd", states, weights)
    means: Vectors = (sums / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return means


def pool_max(states: States, mask: Mask) -> Vectors:
    """Return the largest value of each dimension over each item's tokens."""
    masked = np.where(_tokens(mask)[:, :, np.newaxis], states, np.float32(-np.inf))
    pooled: Vectors = masked.max(axis=1)
    return pooled


POOLING: Mapping[str, Callable[[States, Mask], Vectors]] = {
    "cls": pool_cls,
    "mean": pool_mean,
    "max": pool_max,
    "last": pool_last,
}


def _tokens(mask: Mask) -> NDArray[np.bool_]:
    tokens = mask.astype(np.bool_)
    if not tokens.any(axis=1).all():
        raise ValueError("a row of the mask has no token")
    return tokens
