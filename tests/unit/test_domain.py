"""Values that travel: what they say of themselves."""

import numpy as np
import pytest

from quartzite.domain import Picture


@pytest.mark.parametrize(
    ("height", "width", "patches", "tokens"),
    [(32, 32, (2, 2), 1), (64, 64, (4, 4), 4), (480, 640, (30, 40), 300), (1088, 1632, (68, 102), 1734)],
)
def test_a_picture_counts_its_patches_and_tokens(
    height: int, width: int, patches: tuple[int, int], tokens: int
) -> None:
    """Patches are 16 by 16 pixels, rows first; two by two of them make one token."""
    picture = Picture(np.zeros((height, width, 3), dtype=np.uint8))
    assert picture.patches == patches
    assert picture.tokens == tokens
