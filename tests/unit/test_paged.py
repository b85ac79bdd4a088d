"""Attention over blocks of keys and values: what a row tells the plugin, and what comes out of it."""

import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from openvino import PartialShape, Type, opset15

from quartzite.engines.openvino import paged
from quartzite.engines.openvino.caches import BLOCK_TOKENS, BLOCKS, GIVING_BACK, KEYS, VALUES, Caches
from quartzite.engines.openvino.rows import Arrays

HEADS, GROUPS = 4, 2
Array = NDArray[np.float32]
lengths = st.lists(st.integers(1, 200), min_size=1, max_size=9)


@given(lengths, st.integers(0, 31), st.integers(0, 300))
def test_every_item_has_blocks_of_its_own_for_all_of_its_tokens(sizes: list[int], tail: int, past: int) -> None:
    """No block has two owners, none is missing or idle, and what belongs to no item is apart from all of them."""
    told = paged.of_row(sizes, tail, past)
    parts = sizes + [tail] * bool(tail)
    all_tokens = [parts[0] + past, *parts[1:]]
    assert np.diff(told[paged.BEGINS]).tolist() == parts
    assert told[paged.PAST].tolist() == [past] + [0] * (len(parts) - 1)
    assert told[paged.LONGEST] == max(all_tokens)
    assert sorted(set(told[BLOCKS].tolist())) == list(range(told[paged.BLOCK_BEGINS][-1]))
    for tokens, blocks in zip(all_tokens, np.diff(told[paged.BLOCK_BEGINS]), strict=True):
        assert (blocks - 1) * BLOCK_TOKENS < tokens <= blocks * BLOCK_TOKENS


def request_of(size: int, layers: int = 1) -> ov.InferRequest:
    """A request of a graph that is nothing but attention of HEADS heads of `size`, in f32."""
    widths = {"query": HEADS * size, "key": GROUPS * size, "value": GROUPS * size}
    parts = [opset15.parameter(PartialShape([-1, width]), Type.f32, name=name) for name, width in widths.items()]
    attention = paged.PagedAttention(GROUPS, size)
    # The plugin wants to compute what it is given.
    doubled = [opset15.add(part, part) for part in parts]
    attended = [opset15.result(attention.attend(*doubled, layer)) for layer in range(layers)]
    options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    model = ov.Model(attended, [*parts, *attention.inputs])
    return ov.Core().compile_model(model, "CPU", options).create_infer_request()


def states(size: int, tokens: int) -> dict[str, Array]:
    generator = np.random.default_rng(tokens)
    draw = lambda heads: generator.standard_normal((tokens, heads * size)).astype(np.float32)  # noqa: E731
    return {"query": draw(HEADS) * np.float32(size**-0.5), "key": draw(GROUPS), "value": draw(GROUPS)}


def expected(item: dict[str, Array], size: int) -> Array:
    """The causal attention of one item, in float64: the graph doubles its inputs."""
    query, key, value = (
        2 * part.astype(np.float64).reshape(len(part), -1, size).transpose(1, 0, 2) for part in item.values()
    )
    key, value = (np.repeat(part, HEADS // GROUPS, axis=0) for part in (key, value))
    scores = query @ key.transpose(0, 2, 1) + np.triu(np.full((len(item["query"]),) * 2, -np.inf), 1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return ((weights / weights.sum(axis=-1, keepdims=True)) @ value).transpose(1, 0, 2).reshape(item["query"].shape)


def spoil(request: ov.InferRequest) -> None:
    """Leave in all blocks what a run of an engine that has gone wrong may leave there."""
    for name in (KEYS, VALUES):
        request.get_tensor(name.format(0)).data[...] = np.nan


def run(request: ov.InferRequest, row: dict[str, Array], told: Arrays) -> Array:
    request.infer({**row, **told}, share_inputs=True)
    return np.array(request.get_output_tensor(0).data).reshape(row["query"].shape)


@pytest.mark.parametrize("size", [16, 64, 128])
def test_items_of_a_row_see_what_lies_before_them_in_the_same_item(size: int) -> None:
    """Whatever lay in the blocks before, and whatever the tail holds."""
    request, sizes, tail = request_of(size), [1, 33, 64, 5], 7
    told, row = paged.of_row(sizes, tail), states(size, sum(sizes) + tail)
    Caches(request).hold_for(told)
    spoil(request)
    found, start = run(request, row, told), 0
    for tokens in sizes:
        item = {name: part[start : start + tokens] for name, part in row.items()}
        np.testing.assert_allclose(found[start : start + tokens], expected(item, size), atol=2e-5)
        start += tokens
    assert np.isfinite(found).all()


@pytest.mark.parametrize("piece", [32, 50])
def test_an_item_in_pieces_sees_its_earlier_ones(piece: int) -> None:
    """The last piece is shorter than its row, and pieces need not fill blocks."""
    size, tokens, tail = 64, 138, 9
    request, item = request_of(size), states(size, tokens)
    caches = Caches(request)
    caches.keep(tokens)
    spoil(request)
    found = []
    for start in range(0, tokens, piece):
        row = {name: part[start : start + piece] for name, part in item.items()}
        here = len(row["query"])
        padded = {name: np.pad(part, ((0, tail), (0, 0))) for name, part in row.items()}
        told = paged.of_row([here], tail, start)
        caches.hold_for(told)
        found.append(run(request, padded, told)[:here])
    np.testing.assert_allclose(np.concatenate(found), expected(item, size), atol=2e-5)


def test_layers_share_their_blocks_unless_an_item_is_kept() -> None:
    """A row needs one layer's keys at a time; what is kept is given back at once, and rows begin small again."""
    request = request_of(16, layers=2)
    caches = Caches(request)
    caches.hold(3)
    caches.hold(2)
    assert _blocks(request) == [3, 3]
    assert _places(request, KEYS) == 1
    assert _places(request, KEYS, VALUES) == 2
    caches.keep(5 * BLOCK_TOKENS)
    caches.hold(7)
    assert _blocks(request) == [7, 7]
    assert _places(request, KEYS, VALUES) == 4
    caches.forget()
    assert _blocks(request) == [1, 1]
    caches.hold(4)
    caches.forget()
    assert _blocks(request) == [4, 4]


def test_what_was_kept_is_given_back_to_the_system() -> None:
    """205 MB, on a thread that ends with that; engines of other tests may grow by some meanwhile."""
    caches = Caches(request := request_of(128))
    before = _anonymous_bytes()
    caches.keep(100_000)
    for name in (KEYS, VALUES):
        request.get_tensor(name.format(0)).data[...] = 1
    kept = _anonymous_bytes() - before
    assert kept > 150_000_000
    caches.forget()
    for thread in threading.enumerate():
        if thread.name == GIVING_BACK:
            thread.join()
    assert _anonymous_bytes() - before < 0.5 * kept


def test_a_graph_without_blocks_has_none() -> None:
    """Other architectures' graphs are run by the same code."""
    one = opset15.parameter(PartialShape([2]), Type.f32, name="one")
    request = ov.Core().compile_model(ov.Model([opset15.relu(one)], [one], "relu"), "CPU").create_infer_request()
    caches = Caches(request)
    caches.hold(3)
    caches.keep(300)
    caches.forget()
    assert request.infer({"one": np.array([-1, 1], dtype=np.float32)})[0].tolist() == [0, 1]


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _blocks(request: ov.InferRequest) -> list[int]:
    return [request.get_tensor(KEYS.format(layer)).shape[0] for layer in (0, 1)]


def _places(request: ov.InferRequest, *names: str) -> int:
    tensors = [request.get_tensor(name.format(layer)) for name in names for layer in (0, 1)]
    return len({tensor.data.ctypes.data for tensor in tensors})
