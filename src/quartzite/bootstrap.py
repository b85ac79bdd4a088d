"""Settings → running objects, and back: the only place that builds them. Knows every part, and none of the work."""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from quartzite.admission.allowance import MonthlyAllowance
from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.gate import Gate, KeyedGate, OpenGate, RecordingGate
from quartzite.admission.limits import Limits
from quartzite.admission.windows import LocalWindows, Windows
from quartzite.batching.worker import Batcher
from quartzite.config import EngineSettings, ModelSettings, Precision, Settings
from quartzite.engines.base import Engine
from quartzite.errors import MissingExtra, StartFailure
from quartzite.pipeline import Pipeline, ServedModel
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.card import ModelCard
from quartzite.registry.catalog import catalog
from quartzite.registry.files import locate
from quartzite.registry.folder import read_card
from quartzite.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from quartzite.storage.keys import Keys
    from quartzite.storage.ledger import Ledger

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


@dataclass(frozen=True, slots=True)
class Service:
    """All that answers requests; `asks_for_keys` says whether callers need one."""

    pipeline: Pipeline
    models: tuple[Loaded, ...]
    metrics: Metrics
    asks_for_keys: bool = False


@asynccontextmanager
async def running(
    settings: Settings, source: EngineSource = OPENVINO, progress: bool = True, guarded: bool = False
) -> AsyncIterator[Service]:
    """Load every model of `settings` and keep it running inside the `async with`; close all of it in order after.

    `progress` shows downloads on the terminal. A `guarded` service asks for keys where there are some, and records its
    requests where there is a database. Raises a StartFailure that names the model which could not be loaded, after
    closing those that were.
    """
    async with AsyncExitStack() as stack:
        tokenising = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1, "tokenise"))
        metrics = Metrics()
        gate = await _gate(settings, metrics, stack) if guarded else OpenGate()
        loading = _Loading(settings, _loader(source), progress, stack, metrics)
        served = {model.name: await loading.serve(model) for model in settings.models}
        pipeline = Pipeline(served, gate, settings.requests, tokenising)
        yield Service(pipeline, tuple(loading.loaded), metrics, isinstance(gate, KeyedGate))


def web_app(service: Service, settings: Settings) -> "Starlette":
    """Return the ASGI application that serves `service` over HTTP."""
    from quartzite.web.app import build_app

    return build_app(service.pipeline, settings.requests, service.metrics)


class _Loading:
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
        batcher = Batcher(engine, self._settings.queue, observer=self._metrics.engine_of(card.name))
        await batcher.start()
        # The engine is closed with its batcher; requests have had their time to end before that.
        self._stack.push_async_callback(batcher.stop, grace_s=0)
        return engine, await reading, batcher


def _loader(source: EngineSource) -> EngineLoader:
    """Import an engine by name: an engine whose library is not installed costs nothing, until it is asked for."""
    module, _, name = source.loader.partition(":")
    try:
        loader: EngineLoader = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != source.library:
            raise
        raise MissingExtra(f"{source.library} is not installed; install it with: {source.install}") from error
    return loader


async def _gate(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Gate:
    """Build the gate that the keys and the database of `settings` call for; `stack` closes what it needs."""
    records = await _records(settings, metrics, stack) if settings.storage.in_use else None
    find, allowance, book = None, None, None
    if records:
        from quartzite.admission.records import KnownKeys, LedgerBook

        keys, ledger = records
        find, allowance, book = KnownKeys(keys), MonthlyAllowance(ledger.month_tokens), LedgerBook(ledger)
    if settings.server.no_auth or not await _has_keys(settings, records and records[0]):
        return RecordingGate(book) if book else OpenGate()
    authenticator = Authenticator(settings.access.api_keys, Principal(settings.access.level), find)
    limits = Limits(settings.levels, _windows(settings, metrics, stack))
    model_levels = {model.name: model.level for model in settings.models if model.level}
    return KeyedGate(authenticator, limits, model_levels, allowance, book)


async def _has_keys(settings: Settings, keys: "Keys | None") -> bool:
    """Say whether anyone could come in with a key; raises StartFailure where nobody could, and anyone would."""
    if settings.access.api_keys or (keys is not None and await asyncio.to_thread(keys.any_valid)):
        return True
    if not settings.server.is_loopback:
        raise StartFailure(
            f"--host {settings.server.host} lets other machines in, and there is no valid key to ask them for; make "
            "one (quartzite keys create), give one (--api-key), or say --no-auth if anyone may come"
        )
    return False


async def _records(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> "tuple[Keys, Ledger]":
    """Open the database, on a thread: its libraries are imported now, and its tables brought up to date."""
    keys, ledger = await asyncio.to_thread(_open_records, settings, stack)
    metrics.watch_ledger(lambda: ledger.lag)
    from quartzite.storage.ledger import keep_pruned

    pruning = asyncio.create_task(keep_pruned(ledger, settings.storage.retention_days))
    stack.callback(pruning.cancel)
    return keys, ledger


def _open_records(settings: Settings, stack: AsyncExitStack) -> "tuple[Keys, Ledger]":
    from quartzite.storage.database import open_database
    from quartzite.storage.keys import Keys
    from quartzite.storage.ledger import Ledger

    database = stack.enter_context(open_database(settings.storage.database_url))
    return Keys(database), stack.enter_context(Ledger(database))


def _windows(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Windows:
    if settings.limits.shared_url is None or not settings.levels:
        return LocalWindows(time.monotonic)
    from quartzite.admission.shared import SharedWindows

    windows = SharedWindows(settings.limits, time.monotonic, metrics.limit_store_failed)
    stack.push_async_callback(windows.close)
    return windows
