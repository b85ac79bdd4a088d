"""Pixels against transformers' image processor: the grid and every number, from file to network input."""

import numpy as np
import pytest

from quartzite.domain import Picture
from quartzite.engines.openvino.pictures import patch_values
from quartzite.preprocess.decode import Bounds, decode
from quartzite.preprocess.sources import BadPicture
from synthetic.golden_pixels import MAX_PIXELS, MIN_PIXELS, case, cases, digest, load

BOUNDS = Bounds(100_000_000, 50_000_000, MIN_PIXELS, MAX_PIXELS, turn_by_exif=False)
REFERENCE = load()


@pytest.mark.parametrize("name", [name for name, found in REFERENCE.items() if found])
def test_pixels_are_those_of_transformers(name: str) -> None:
    """Every size, shape and mode gives the grid and, to the last bit, the numbers of the reference."""
    height, width, pixels = decode(case(*cases()[name]).file, BOUNDS)
    picture = Picture(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))
    assert [*picture.patches, digest(patch_values(picture))] == REFERENCE[name]


@pytest.mark.parametrize("name", [name for name, found in REFERENCE.items() if not found])
def test_what_transformers_refuses_is_refused(name: str) -> None:
    """Pictures whose one side is more than 200 times the other."""
    with pytest.raises(BadPicture, match="one side is more than 200 times the other"):
        decode(case(*cases()[name]).file, BOUNDS)


def test_every_case_has_its_reference() -> None:
    """The committed file holds what the recipes draw, the sizes and modes that were promised among them."""
    assert REFERENCE.keys() == cases().keys()
    assert {"1x1", "1x400", "31x33", "480x640", "4000x3000", "100x150 I;16"} <= REFERENCE.keys()
