"""What holds for every safetensors file, damaged ones included."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from quartzite.errors import WeightsRefused
from quartzite.weights.safetensors import read_safetensors
from quartzite.weights.tensor import STORED_AS
from weight_files import Tensors, assert_same, mutations, one_of_each_dtype, safetensors_of, stored_values

IN_ONE_FOLDER = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAMPLE = safetensors_of(one_of_each_dtype(), metadata={"format": "pt"})


@IN_ONE_FOLDER
@given(tensors=st.dictionaries(st.text().filter(lambda name: name != "__metadata__"), stored_values(), max_size=5))
def test_what_is_written_comes_back(tmp_path: Path, tensors: Tensors) -> None:
    """Any names, dtypes and shapes come back bit for bit."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_of(tensors))
    assert_same(read_safetensors(path), tensors)


@settings(IN_ONE_FOLDER, max_examples=200)
@given(content=mutations(SAMPLE))
def test_a_damaged_file_is_refused_or_read_as_it_says(tmp_path: Path, content: bytes) -> None:
    """After flipped, lost or added bytes a file is refused, or still says plainly what is read from it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    try:
        found = read_safetensors(path)
    except WeightsRefused:
        event("refused")
        return
    event("read")
    assert_same(found, _plainly_read(content))


def _plainly_read(content: bytes) -> Tensors:
    """Read a valid file in the shortest way, without any check."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            np.frombuffer(content[start:][slice(*entry["data_offsets"])], STORED_AS[entry["dtype"]]).reshape(
                entry["shape"]
            ),
        )
        for name, entry in header.items()
    }


@IN_ONE_FOLDER
@given(content=st.binary(max_size=200))
def test_noise_is_refused(tmp_path: Path, content: bytes) -> None:
    """Random bytes are no weights."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsRefused):
        read_safetensors(path)
