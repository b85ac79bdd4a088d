"""Finding the weights of a model folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quartzite.errors import WeightsRefused
from quartzite.weights.folder import open_weights
from weight_files import Tensors, assert_same, counted, safetensors_of, torch_zip_of

A: Tensors = {"a": ("F32", counted(2))}
B: Tensors = {"b": ("F32", counted(3, 2))}
WRITERS: dict[str, Callable[[Tensors], bytes]] = {
    "model.safetensors": safetensors_of,
    "pytorch_model.bin": torch_zip_of,
}


def _index(folder: Path, file: str, weight_map: object) -> None:
    index = {"metadata": {"total_size": 32}, "weight_map": weight_map}
    (folder / f"{file}.index.json").write_text(json.dumps(index))


def _sharded(folder: Path, file: str) -> list[str]:
    """Write tensor `a` into one shard, `b` into another, and their index; return the names of the shards."""
    stem, suffix = file.split(".")
    shards = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for shard, tensors in zip(shards, (A, B), strict=True):
        (folder / shard).write_bytes(WRITERS[file](tensors))
    _index(folder, file, {"a": shards[0], "b": shards[1]})
    return shards


@pytest.mark.parametrize("file", WRITERS)
def test_a_single_file_is_opened(tmp_path: Path, file: str) -> None:
    """A folder with one file of either format gives its tensors."""
    (tmp_path / file).write_bytes(WRITERS[file](A | B))
    assert_same(open_weights(tmp_path), A | B)


@pytest.mark.parametrize("file", WRITERS)
def test_shards_are_joined(tmp_path: Path, file: str) -> None:
    """A folder with an index gives the tensors of all shards."""
    _sharded(tmp_path, file)
    assert_same(open_weights(tmp_path), A | B)


def test_safetensors_come_first(tmp_path: Path) -> None:
    """With both formats in the folder safetensors is read, single or sharded."""
    (tmp_path / "pytorch_model.bin").write_bytes(torch_zip_of(A))
    _sharded(tmp_path, "model.safetensors")
    assert_same(open_weights(tmp_path), A | B)
    (tmp_path / "model.safetensors").write_bytes(safetensors_of(B))
    assert_same(open_weights(tmp_path), B)


def test_files_may_be_links(tmp_path: Path) -> None:
    """A model cache keeps its files elsewhere and links to them by name."""
    (tmp_path / "blob").write_bytes(safetensors_of(A))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert_same(open_weights(folder), A)


def test_a_damaged_or_dangling_file_is_no_reason_to_take_another(tmp_path: Path) -> None:
    """Where model.safetensors stands it counts, also when it cannot be read."""
    (tmp_path / "pytorch_model.bin").write_bytes(torch_zip_of(A))
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(WeightsRefused, match=r"model\.safetensors: there is no such file"):
        open_weights(tmp_path)
    (tmp_path / "gone").write_bytes(b"nonsense")
    with pytest.raises(WeightsRefused, match=r"model\.safetensors: "):
        open_weights(tmp_path)


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    """The message lists the files that would have been taken."""
    with pytest.raises(WeightsRefused) as caught:
        open_weights(tmp_path)
    for file in ("model.safetensors", "pytorch_model.bin"):
        assert f"{file} and {file}.index.json" in str(caught.value)
    assert "what is there" not in str(caught.value)


def test_other_formats_are_named(tmp_path: Path) -> None:
    """Where only other formats are found the message says which, those one folder down included."""
    for other in ("tf_model.h5", "weights.Q8_0.gguf", "onnx/model.onnx", "config.json"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()
    with pytest.raises(WeightsRefused, match=r"not read: onnx/model\.onnx, tf_model\.h5, weights\.Q8_0\.gguf$"):
        open_weights(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A folder that is not there is said not to be there."""
    with pytest.raises(WeightsRefused, match="nowhere: there is no such folder"):
        open_weights(tmp_path / "nowhere")


@pytest.mark.parametrize("file", WRITERS)
def test_missing_shards_are_named(tmp_path: Path, file: str) -> None:
    """A download that stopped halfway is recognised by the shards that are not there."""
    first, second = _sharded(tmp_path, file)
    (tmp_path / second).unlink()
    with pytest.raises(WeightsRefused, match=rf"index\.json: 1 of 2 files are not in the folder: '{second}'"):
        open_weights(tmp_path)
    (tmp_path / first).unlink()
    with pytest.raises(WeightsRefused, match="2 of 2 files"):
        open_weights(tmp_path)


@pytest.mark.parametrize("file", WRITERS)
def test_a_damaged_shard_is_named(tmp_path: Path, file: str) -> None:
    """What is wrong with a shard is said of the shard."""
    _, second = _sharded(tmp_path, file)
    (tmp_path / second).write_bytes((tmp_path / second).read_bytes()[:-1])
    with pytest.raises(WeightsRefused, match=rf"/{second}: "):
        open_weights(tmp_path)


ESCAPES = [
    "../outside.safetensors",
    "/etc/outside.safetensors",
    "inner/outside.safetensors",
    "..\\outside.safetensors",
    "C:outside.safetensors",
    "..",
    "",
    ".safetensors",
    "-outside.safetensors",
    "outside.safetensors\n",
    "out\0side.safetensors",
    "o" * 300 + ".safetensors",
    "config.json",
]


@pytest.mark.parametrize("shard", ESCAPES)
def test_a_shard_name_cannot_leave_the_folder(tmp_path: Path, shard: str) -> None:
    """Names with a path, of other files, or that no file can have are refused, whatever they lead to."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "outside.safetensors").write_bytes(safetensors_of(A))
    (folder / "inner" / "outside.safetensors").write_bytes(safetensors_of(A))
    _index(folder, "model.safetensors", {"a": shard})
    with pytest.raises(WeightsRefused, match=r"tensor 'a' is said to be in .*, which is no plain file name"):
        open_weights(folder)


def test_index_and_shards_have_to_agree(tmp_path: Path) -> None:
    """A tensor the index places where it is not, or does not know, is named with its shard."""
    first, second = _sharded(tmp_path, "model.safetensors")
    _index(tmp_path, "model.safetensors", {"a": second, "b": second})
    with pytest.raises(WeightsRefused, match=rf"index\.json: {second} lacks tensors the index places there: 'a'"):
        open_weights(tmp_path)
    _index(tmp_path, "model.safetensors", {"a": first, "b": second, "c": second})
    with pytest.raises(WeightsRefused, match=rf"{second} lacks tensors the index places there: 'c'"):
        open_weights(tmp_path)
    (tmp_path / first).write_bytes(safetensors_of(A | B))
    _index(tmp_path, "model.safetensors", {"a": first, "b": second})
    with pytest.raises(WeightsRefused, match=rf"{first} holds tensors the index does not: 'b'"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        b'{"weight_map": {}, "weight_map": {}}',
        b'{"weight_map":' + b"[" * 100_000,
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, content: bytes) -> None:
    """An index that is no object of names, or names one twice, is refused by its own name."""
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(WeightsRefused, match=r"model\.safetensors\.index\.json: "):
        open_weights(tmp_path)


def test_an_index_that_is_a_list_is_called_no_object(tmp_path: Path) -> None:
    """JSON of another kind than an object is told from broken JSON."""
    (tmp_path / "model.safetensors.index.json").write_bytes(b"[]")
    with pytest.raises(WeightsRefused, match="holds JSON, but no object"):
        open_weights(tmp_path)


def test_an_index_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    """An index beyond the limit is refused before it is read into memory."""
    with (tmp_path / "model.safetensors.index.json").open("wb") as index:
        index.truncate(2**24 + 1)
    with pytest.raises(WeightsRefused, match="has 16777217 bytes, at most 16777216"):
        open_weights(tmp_path)
