"""Models: settings → engines, tokenisers and queues that answer. Knows every part that these are made of."""

import asyncio
import importlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from quartzite.batching.worker import Batcher
from quartzite.config import EngineSettings, ModelSettings, Precision, Settings
from quartzite.engines.base import Engine
from quartzite.errors import MissingExtra, StartFailure
from quartzite.pipeline import ServedModel
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.card import ModelCard
from quartzite.registry.catalog import catalog
from quartzite.registry.files import locate
from quartzite.registry.folder import read_card
from quartzite.telemetry.metrics import Metrics

EngineLoader = Callable[[ModelCard, EngineSettings, Path], Engine]


class EngineSource(NamedTuple):
    """Where an engine is loaded from, and what installs the library it needs."""

    loader: str
    library: str
    install: str


OPENVINO = EngineSource("quartzite.engines.openvino.engine:load", "openvino", "python -m pip install openvino")


@dataclass(frozen=True, slots=True)
class Loaded:
    """How one served model came to be; `load_s` is next to nothing for a name that shares another's engine.

    `arithmetic` says how it is computed and why so.
    """

    card: ModelCard
    arithmetic: str
    load_s: float


class Loading:
    """Loads models one after another; names that ask for the same computation share its engine, queue and tokeniser.

    What is loaded is closed by `stack`, in the opposite order.
    """

    def __init__(
        self, settings: Settings, load: EngineLoader, progress: bool, stack: AsyncExitStack, metrics: Metrics
    ) -> None:
        self.loaded: list[Loaded] = []
        self._settings = settings
        self._load = load
        self._progress = progress
        self._stack = stack
        self._metrics = metrics
        self._started: dict[tuple[ModelCard, Precision], tuple[Engine, Tokeniser, Batcher]] = {}

    async def serve(self, model: ModelSettings) -> ServedModel:
        """Load one model; raises a StartFailure that names it."""
        begun = time.perf_counter()
        try:
            card, engine, tokeniser, batcher = await self._serve(model)
        except StartFailure as failure:
            raise type(failure)(f"the model {model.name!r} cannot be served: {failure}") from failure
        except Exception as error:
            error.add_note(f"while loading the model {model.name!r}")
            raise
        load_s = time.perf_counter() - begun
        self.loaded.append(Loaded(card, engine.arithmetic, load_s))
        self._metrics.add_model(model.name, load_s)
        return ServedModel(card, tokeniser, batcher)

    async def _serve(self, model: ModelSettings) -> tuple[ModelCard, Engine, Tokeniser, Batcher]:
        card = await asyncio.to_thread(self._card, model)
        settings = self._engine_settings(model)
        computation = (replace(card, name="", allowed_dimensions=()), settings.precision)
        if computation not in self._started:
            self._started[computation] = await self._start(card, settings)
        return card, *self._started[computation]

    def _card(self, model: ModelSettings) -> ModelCard:
        folder = locate(model, self._settings.cache.path, self._progress)
        return read_card(model.name, folder.resolve(), catalog().get(model.name))

    def _engine_settings(self, model: ModelSettings) -> EngineSettings:
        common = self._settings.engine
        return msgspec.structs.replace(common, precision=model.precision or common.precision)

    async def _start(self, card: ModelCard, settings: EngineSettings) -> tuple[Engine, Tokeniser, Batcher]:
        file = card.folder / "tokenizer.json"
        reading = asyncio.create_task(asyncio.to_thread(Tokeniser, file, card.max_tokens, card.shape.vocabulary))
        try:
            engine = await asyncio.to_thread(self._load, card, settings, self._settings.cache.path)
        except BaseException:
            reading.cancel()
            raise
        observer, patience_s = self._metrics.engine_of(card.name), self._settings.requests.timeout_ms / 1000
        batcher = Batcher(engine, self._settings.queue, observer=observer, patience_s=patience_s)
        await batcher.start()
        # The engine is closed with its batcher; requests have had their time to end before that.
        self._stack.push_async_callback(batcher.stop, grace_s=0)
        return engine, await reading, batcher


def engine_loader(source: EngineSource) -> EngineLoader:
    """Import an engine by name: an engine whose library is not installed costs nothing, until it is asked for."""
    module, _, name = source.loader.partition(":")
    try:
        loader: EngineLoader = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != source.library:
            raise
        raise MissingExtra(f"{source.library} is not installed; install it with: {source.install}") from error
    return loader
