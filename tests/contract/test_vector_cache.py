"""Vectors that are kept (`cache.max_vector_bytes`), as clients and operators see them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from admin_service import AdminService, admin_service, admin_settings
from fake_models import built, write_model
from quartzite.batching.cache import KEPT_BESIDE
from quartzite.config import CacheSettings, Settings
from quartzite.errors import InvalidConfig

ENTRY = 4 * 32 + KEPT_BESIDE


def settings_with_room_for(vectors: float, tmp_path: Path, **models: str) -> Settings:
    cache = CacheSettings(folder=str(tmp_path / "cache"), max_vector_bytes=int(vectors * ENTRY))
    return msgspec.structs.replace(admin_settings(tmp_path, **models), cache=cache)


async def answer(service: AdminService, text: str, **fields: object) -> dict[str, Any]:
    told = await service.embed(input=text, **fields)
    assert told.status_code == 200, told.text
    answered: dict[str, Any] = json.loads(told.content)
    return answered


async def counted(service: AdminService, model: str = "m") -> dict[str, float]:
    """Return what the metrics tell of the cache of a model."""
    lines = (await service.client.get("/metrics")).text.splitlines()
    ours = [line.split() for line in lines if line.startswith("quartzite_vector_cache") and f'"{model}"' in line]
    return {name.split("{")[0].removeprefix("quartzite_vector_cache_"): float(value) for name, value in ours}


async def test_a_text_that_comes_again_is_not_computed_again(tmp_path: Path) -> None:
    """Answers and usage are equal to the last bit; with `dimensions` too, for what is kept is the whole vector."""
    async with admin_service(settings_with_room_for(2, tmp_path, m="model")) as service:
        first = await answer(service, "one")
        assert await answer(service, "one") == first
        assert (await answer(service, "one", encoding_format="base64"))["usage"] == first["usage"]
        for text in ("two", "three", "one"):
            await answer(service, text)
        told = await counted(service)
    assert len(built[0].batches) == 4
    assert told == {"hits_total": 2, "misses_total": 4, "evictions_total": 2, "bytes": 2 * ENTRY}


async def test_models_share_nothing_that_is_kept(tmp_path: Path) -> None:
    """The same text is computed by each of them."""
    async with admin_service(settings_with_room_for(9, tmp_path, m="model")) as service:
        write_model(tmp_path / "other")
        await service.admin("POST", "/models", {"name": "n", "folder": str(tmp_path / "other")})
        for model in ("m", "n", "m", "n"):
            assert (await service.embed(model)).status_code == 200
    assert [len(engine.batches) for engine in built] == [1, 1]


async def test_an_unloaded_model_keeps_nothing(tmp_path: Path) -> None:
    """Loaded anew it computes anew, and its memory is told no more meanwhile."""
    async with admin_service(settings_with_room_for(9, tmp_path, m="model")) as service:
        await service.embed()
        assert (await counted(service))["bytes"] == ENTRY
        assert (await service.admin("DELETE", "/models/m")).status_code == 200
        assert "bytes" not in await counted(service)
        assert (await service.admin("POST", "/models", {"name": "m"})).status_code == 201
        await service.embed()
    assert [len(engine.batches) for engine in built] == [1, 1]


async def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    """By default the same text is computed each time."""
    async with admin_service(admin_settings(tmp_path, m="model")) as service:
        for _ in range(3):
            await service.embed()
        assert set((await counted(service)).values()) == {0}
    assert len(built[0].batches) == 3


@pytest.mark.parametrize(("vectors", "told"), [(0.9, "have no room for one vector"), (1e16, "Unable to allocate")])
async def test_a_bound_that_cannot_be_is_told_at_the_start(vectors: float, told: str, tmp_path: Path) -> None:
    """Neither is a setting without effect, nor does the server end later for want of memory; the engine is closed."""
    with pytest.raises(InvalidConfig, match=f"'m' cannot be served: cache.max_vector_bytes: .*{told}"):
        async with admin_service(settings_with_room_for(vectors, tmp_path, m="model")):
            pass
    assert built[0].closed
