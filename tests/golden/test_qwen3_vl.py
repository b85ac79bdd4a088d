"""Qwen3-VL with OpenVINO against vectors of transformers: texts, pictures of many shapes, and both in one item."""

import asyncio
import gc
import hashlib
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quartzite.config import EngineSettings, Precision
from quartzite.domain import Encoded, Picture, Vectors
from quartzite.engines.openvino import pictures, qwen3_vl, qwen3_vl_vision
from quartzite.engines.openvino.engine import OpenVinoEngine, load
from quartzite.registry.folder import read_card
from synthetic import golden_pictures
from synthetic.folder import make_folder
from synthetic.golden import weights_sha256

CASES = golden_pictures.CASES
Loaded = Callable[..., OpenVinoEngine]
Folders = Callable[[str], Path]
cases = pytest.mark.parametrize("name", CASES)


@cache
def items(name: str) -> list[Encoded]:
    """The items of a case as the engine takes them."""
    found = golden_pictures.golden_items(CASES[name])
    return [encoded(item) for item in found]


def encoded(item: golden_pictures.GoldenItem) -> Encoded:
    picture = None if item.pixels is None else Picture(item.pixels)
    return Encoded(np.array(item.ids, dtype=np.int32), picture, item.picture_at)


def reference(name: str) -> golden_pictures.SeenVectors:
    return golden_pictures.load(golden_pictures.golden_file(name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return the folder of a case, made once."""

    @cache
    def made(name: str) -> Path:
        path = tmp_path_factory.mktemp(name, numbered=False)
        make_folder(path, CASES[name])
        return path

    return made


@pytest.fixture(scope="module")
def loaded(folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Return the engine of a case in a precision, loaded once."""
    kept = tmp_path_factory.mktemp("cache")

    @cache
    def get(name: str, precision: Precision = "f32", micro_batch_tokens: int | None = None) -> OpenVinoEngine:
        settings = EngineSettings(precision=precision, micro_batch_tokens=micro_batch_tokens)
        return load(read_card(name, folder(name), None), settings, kept)

    return get


def embed(engine: OpenVinoEngine, batches: Sequence[Sequence[Encoded]]) -> Vectors:
    async def run() -> Vectors:
        return np.concatenate([await engine.embed(batch) for batch in batches])

    return asyncio.run(run())


def alone(engine: OpenVinoEngine, of: Sequence[Encoded]) -> Vectors:
    return embed(engine, [[item] for item in of])


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    dots: NDArray[np.float64] = (one.astype(np.float64) * other).sum(axis=1)
    return dots / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize(
    ("precision", "least"), [("f32", 0.99999), ("bf16", 0.99), ("int8", 0.98), ("int8-dynamic", 0.97)]
)
@cases
def test_vectors_are_those_of_transformers(name: str, loaded: Loaded, precision: Precision, least: float) -> None:
    """Texts, pictures from 64 x 64 to a photograph of 1.8 million pixels, and both together get the reference's."""
    vectors = alone(loaded(name, precision), items(name))
    assert cosines(vectors, reference(name).vectors).min() >= least


@cases
def test_f32_vectors_are_not_only_parallel_but_equal(name: str, loaded: Loaded) -> None:
    """What leaves the engine is pooled and not scaled: the lengths are the reference's too."""
    expected = reference(name).vectors
    np.testing.assert_allclose(alone(loaded(name), items(name)), expected, atol=1e-3 * np.abs(expected).max())


@cases
def test_patches_are_those_of_transformers_to_the_last_bit(name: str) -> None:
    """Of every picture the same float32 numbers in the same order as transformers' image processor makes."""
    expected = reference(name).patches_sha256
    assert len([digest for digest in expected if digest]) == 2 * len(golden_pictures.GRIDS)
    for item, digest in zip(items(name), expected, strict=True):
        if item.picture is not None:
            values = pictures.patch_values(item.picture)
            assert hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() == digest


@cases
def test_the_weights_and_items_are_those_of_the_reference_run(name: str) -> None:
    """What is made now is bit for bit what the stored vectors were made from."""
    stored = reference(name)
    assert weights_sha256(CASES[name]) == stored.weights_sha256
    assert golden_pictures.items_sha256(golden_pictures.golden_items(CASES[name])) == stored.items_sha256


@cases
def test_vectors_of_different_items_differ(name: str) -> None:
    """The mean cosine of two items is under 0.8, so that a mistake would show."""
    vectors = reference(name).vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean() < 0.8


@pytest.mark.parametrize("tokens", [None, 1024])
@cases
def test_a_vector_does_not_depend_on_its_micro_batch(name: str, loaded: Loaded, tokens: int | None) -> None:
    """Pictures and texts that share rows, and runs of the vision tower, get the vectors they get alone."""
    engine = loaded(name, "f32", tokens)
    short = [item for item in items(name) if item.tokens <= engine.shape.tokens]
    expected = alone(engine, short)
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(short)).tolist()
        batches: list[list[Encoded]] = [[]]
        for place in order:
            if sum(item.tokens for item in [*batches[-1], short[place]]) > engine.shape.tokens:
                batches.append([])
            batches[-1].append(short[place])
        assert max(sum(item.picture is not None for item in batch) for batch in batches) > 1
        assert cosines(embed(engine, batches), expected[order]).min() >= 0.999999


@cases
def test_items_side_by_side_do_not_disturb_each_other(name: str, loaded: Loaded) -> None:
    """Items that run at the same time, in pieces and not, with pictures and without, give what each gives alone."""
    engine, some = loaded(name), items(name)[3:-2]

    async def together() -> Vectors:
        return np.concatenate(await asyncio.gather(*(engine.embed([item]) for item in some)))

    assert cosines(asyncio.run(together()), alone(engine, some)).min() >= 0.999999


def test_texts_never_touch_the_vision_tower(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch without pictures runs nothing of the tower, short or long."""

    async def broken(*_: Any) -> None:
        raise AssertionError("the tower runs")

    name = "qwen3-vl"
    texts = [item for item in items(name) if item.picture is None]
    monkeypatch.setattr(qwen3_vl_vision.VisionTower, "_run", broken)
    assert np.isfinite(alone(loaded(name), texts)).all()
    with pytest.raises(AssertionError, match="the tower runs"):
        alone(loaded(name), items(name)[5:6])


def test_a_failed_run_of_the_tower_leaves_it_usable(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that cannot be computed fails its micro-batch at once, and others of any shape are as before."""
    engine, item, others = loaded("qwen3-vl"), items("qwen3-vl")[6], items("qwen3-vl")[3:6]
    expected = alone(engine, [item, *others])

    def short_of_pixels(parts: Any, length: int) -> Any:
        return parts[0][:4] if parts[0].shape[1] == pictures.PATCH_VALUES else pictures.laid(parts, length)

    with monkeypatch.context() as patch:
        patch.setattr(qwen3_vl_vision, "laid", short_of_pixels)
        with pytest.raises(RuntimeError):
            alone(engine, [item])
    assert np.array_equal(alone(engine, [item, *others]), expected)


def test_a_closed_engine_lets_go_of_its_vision_tower(folder: Folders, tmp_path: Path) -> None:
    """Its packed weights are a gigabyte; nothing keeps them once the engine is closed."""
    engine = load(read_card("closed", folder("qwen3-vl"), None), EngineSettings(precision="f32"), tmp_path)
    alone(engine, items("qwen3-vl")[5:6])
    tower = weakref.ref(engine._vision)  # type: ignore[arg-type]
    asyncio.run(engine.close())
    gc.collect()
    assert tower() is None


def in_rows(picture: Picture) -> NDArray[np.float32]:
    """The patches of a picture row by row, not in blocks."""
    rows, columns = picture.patches
    split = picture.pixels.reshape(rows, 16, columns, 16, 3).transpose(0, 2, 4, 1, 3)
    return pictures.NORMALISED[split.reshape(-1, 768)]


def turned(grid: pictures.Grid, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rotary tables that take rows for columns."""
    half = size // 4
    swapped = np.r_[half : 2 * half, :half, 3 * half : 4 * half, 2 * half : 3 * half]
    cosine, sine = pictures.rotary_tables(grid, size)
    return cosine[:, swapped], sine[:, swapped]


def in_sections(shape: Any) -> NDArray[np.int32]:
    """Rotary axes in one stretch each, as in Qwen2-VL."""
    return np.repeat(np.arange(3, dtype=np.int32), shape.rope_sections)


def without_features(item: Encoded, found: Any) -> Any:
    """An item whose picture adds nothing after the first layers."""
    features = next(found).copy()
    features[1:] = 0
    return qwen3_vl.Seen(item.ids, item.picture, item.picture_at, features)


def tiled(table: NDArray[np.float32], grid: pictures.Grid) -> NDArray[np.float32]:
    """Learned positions taken from the table's corner instead of stretched over the picture."""
    rows, columns = (np.arange(side) % len(table) for side in grid)
    return pictures.in_blocks(table[rows[:, None], columns])


def counted_on(item: Encoded) -> NDArray[np.int32]:
    """Positions of a picture's tokens that count on as those of text."""
    return np.tile(np.arange(item.tokens, dtype=np.int32), (3, 1))


@pytest.mark.parametrize(
    ("part", "what", "fault"),
    [
        (qwen3_vl_vision, "patch_values", in_rows),
        (qwen3_vl_vision, "rotary_tables", turned),
        (qwen3_vl_vision, "position_embeddings", tiled),
        (qwen3_vl_vision, "_seen", without_features),
        (qwen3_vl, "rope_axes", in_sections),
        (qwen3_vl, "rope_positions", counted_on),
    ],
)
def test_a_planted_fault_would_be_seen(
    part: Any, what: str, fault: Any, folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With patches in rows, rows for columns, features dropped, or other positions, the golden test fails."""
    name = "qwen3-vl"
    monkeypatch.setattr(part, what, fault)
    engine = load(read_card(name, folder(name), None), EngineSettings(precision="f32"), tmp_path)
    places = [place for place, item in enumerate(items(name)) if item.picture is not None and item.tokens < 500]
    vectors = alone(engine, [items(name)[place] for place in places])
    assert cosines(vectors, reference(name).vectors[places]).min() < 0.99


def test_pictures_that_see_each_other_would_be_seen(
    folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the mask between pictures of one run, their vectors depend on each other."""
    name = "qwen3-vl"
    packed = qwen3_vl_vision.VisionInputs.packed

    def one_segment(self: Any, shown: Sequence[Picture]) -> Any:
        arrays = packed(self, shown)
        return {**arrays, "key_segments": np.minimum(arrays["key_segments"], 0), "segments": np.zeros((1, 1), np.int32)}

    monkeypatch.setattr(qwen3_vl_vision.VisionInputs, "packed", one_segment)
    engine = load(read_card(name, folder(name), None), EngineSettings(precision="f32"), tmp_path)
    pair = [items(name)[5], items(name)[7]]
    assert cosines(embed(engine, [pair]), alone(engine, pair)).min() < 0.99
