"""The engine alone: one item of token ids at a time, on all cores where it can; no text, no queue, no web."""

import asyncio
import time
from pathlib import Path
from typing import Any

from protocol import answer

from quartzite.config import EngineSettings
from quartzite.domain import Encoded, TextItem
from quartzite.engines.openvino.engine import OpenVinoEngine
from quartzite.engines.openvino.engine import load as load_engine
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.folder import read_card

WARM_UP_S = 3.0


class Lone:
    """One engine, and the items that it is given again and again."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._items: list[Encoded] = []
        self._engine: OpenVinoEngine

    def load(self, folder: str, precision: str, texts: list[str]) -> dict[str, Any]:
        """Load a model folder and tokenise `texts`; run some until they are at speed."""
        card = read_card("model", Path(folder), None)
        tokeniser = Tokeniser(card.folder / "tokenizer.json", card.max_tokens, card.shape.vocabulary)
        self._items = tokeniser.encode([TextItem(text) for text in texts], "right")

        async def load() -> OpenVinoEngine:
            return load_engine(card, EngineSettings(precision=precision), Path(folder))  # type: ignore[arg-type]

        self._engine = self._loop.run_until_complete(load())
        self._loop.run_until_complete(self._engine.warmed())
        ends = time.perf_counter() + WARM_UP_S
        while time.perf_counter() < ends:
            self.run(100)
        return {"how": self._engine.arithmetic}

    def run(self, count: int) -> dict[str, Any]:
        """Return the seconds of each of the first `count` items, one after the other."""
        return {"seconds": self._loop.run_until_complete(self._run(count))}

    async def _run(self, count: int) -> list[float]:
        seconds = []
        for item in self._items[:count]:
            begun = time.perf_counter()
            await self._engine.embed([item], spread=self._engine.spread > 1)
            seconds.append(time.perf_counter() - begun)
        return seconds


if __name__ == "__main__":
    lone = Lone()
    answer({"load": lone.load, "run": lone.run})
