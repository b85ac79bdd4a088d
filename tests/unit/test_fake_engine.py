"""The engine without a model."""

import asyncio

import numpy as np
import pytest

from quartzite.domain import Encoded
from quartzite.engines.base import Engine
from quartzite.engines.fake import FakeEngine


def _item(*ids: int) -> Encoded:
    return Encoded(np.array(ids, dtype=np.int32))


async def test_a_vector_depends_on_the_ids_alone() -> None:
    """Two engines, alone or in a batch, in any place of it: the same ids give the same bits."""
    engine: Engine = FakeEngine(dimensions=16)
    alone = await engine.embed([_item(5, 6, 7)])
    among = await FakeEngine(dimensions=16).embed([_item(1), _item(5, 6, 7), _item(2, 3)])
    assert alone.shape == (1, 16)
    assert alone.dtype == np.float32
    assert np.array_equal(alone[0], among[1])


async def test_the_order_of_tokens_shows() -> None:
    """The same ids in another order give clearly another vector, which still is nearer than that of other ids."""
    vectors = (await FakeEngine(dimensions=384).embed([_item(1, 2, 3, 4), _item(4, 3, 2, 1), _item(7, 8, 9, 10)])).T
    unit = vectors / np.linalg.norm(vectors, axis=0)
    turned, other = unit[:, 0] @ unit[:, 1], unit[:, 0] @ unit[:, 2]
    assert 0.3 < turned < 0.9
    assert abs(other) < 0.2


async def test_faults_happen_on_the_named_tokens_only() -> None:
    """Raising, NaN and a missing vector are provoked by a token id and leave other batches alone."""
    engine = FakeEngine(fail_on=1, nan_on=2, misshape_on=3)
    with pytest.raises(RuntimeError, match="provoked"):
        await engine.embed([_item(9, 1)])
    assert np.isnan(await engine.embed([_item(9, 2), _item(9)])).any(axis=1).tolist() == [True, False]
    assert (await engine.embed([_item(9, 3), _item(9)])).shape == (1, 8)
    assert np.isfinite(await engine.embed([_item(9)])).all()


async def test_held_micro_batches_wait_for_their_release() -> None:
    """A held engine lets in, tells that it did, and answers when released."""
    engine = FakeEngine()
    engine.hold()
    call = asyncio.create_task(engine.embed([_item(4, 4), _item(4)]))
    await engine.entered.wait()
    assert not call.done()
    engine.release()
    assert (await call).shape == (2, 8)
    assert engine.batches == [(2, 1)]
    await engine.close()
    assert engine.closed
