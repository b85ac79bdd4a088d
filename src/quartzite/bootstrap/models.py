"""Models: settings → engines, tokenisers and queues that answer. Knows every part that these are made of."""

import asyncio
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from quartzite.batching.cache import Reuse, VectorCache
from quartzite.batching.uses import Uses
from quartzite.batching.worker import Batcher
from quartzite.config import EngineSettings, ModelSettings, Precision, Settings
from quartzite.domain import ModelState, Withdrawal
from quartzite.engines.base import Engine
from quartzite.errors import Conflict, InvalidConfig, MissingExtra, NoSuchRecord, StartFailure
from quartzite.pipeline import ServedModel
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.card import ModelCard, Qwen3VlShape
from quartzite.registry.catalog import catalog
from quartzite.registry.files import locate
from quartzite.registry.folder import read_card
from quartzite.telemetry.metrics import EngineMetrics, Metrics

T = TypeVar("T")
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

    settings: ModelSettings
    card: ModelCard
    arithmetic: str
    load_s: float


@dataclass(eq=False, slots=True)
class _Computation:
    """An engine with what belongs to it, and the names under which it is served, the first of which is counted."""

    engine: Engine
    tokeniser: Tokeniser
    batcher: Batcher
    counted: EngineMetrics
    uses: Uses
    names: list[str]


class ServedModels:
    """The models that are served; they come and go while the service runs, and each change leaves the others alone.

    Names that ask for the same computation share its engine, queue and tokeniser until the last of them goes.
    `served`, `levels` (those above 0) and `changing` (names that are loading or unloading) are by name, and live.
    """

    def __init__(self, settings: Settings, load: EngineLoader, metrics: Metrics) -> None:
        self.served: dict[str, ServedModel] = {}
        self.levels: dict[str, int] = {}
        self.changing: dict[str, ModelState] = {}
        self.loaded: dict[str, Loaded] = {}
        self._settings = settings
        self._load = load
        self._metrics = metrics
        self._configured = {model.name: model for model in settings.models}
        self._computations: dict[tuple[ModelCard, Precision], _Computation] = {}
        self._starting = asyncio.Lock()

    async def load(self, model: ModelSettings, progress: bool = False) -> Loaded:
        """Serve one more model; `progress` shows its download on the terminal.

        Raises Conflict for a name that is served or changing, and a StartFailure that names the model.
        """
        self._refuse_a_second_change(model.name)
        if model.name in self.served:
            raise Conflict(f"the model {model.name!r} is served already", "name")
        begun = time.perf_counter()
        with self._change(model.name, "loading"):
            card, computation = await self._compute_for(model, progress)
            loaded = Loaded(model, card, computation.engine.arithmetic, time.perf_counter() - begun)
            self._serve(loaded, computation)
        return loaded

    async def unload(self, name: str) -> None:
        """Serve a model no more; return when the requests that it has are answered and its memory is free.

        Raises NoSuchRecord for a model that is not served, Conflict for one that is changing.
        """
        self._refuse_a_second_change(name)
        if name not in self.served:
            raise NoSuchRecord(f"no model {name!r} is served", "name")
        with self._change(name, "unloading"):
            del self.served[name], self.loaded[name]
            self.levels.pop(name, None)
            await self._release(name)

    async def close(self) -> None:
        """Stop all engines, the last one first; requests have had their time to end before that."""
        for computation in reversed(self._computations.values()):
            await computation.batcher.stop(grace_s=0)

    def configured(self, name: str) -> ModelSettings:
        """Return the settings of the name where there are some, else those of a name without any."""
        return self._configured.get(name) or ModelSettings(name=name)

    def _refuse_a_second_change(self, name: str) -> None:
        if state := self.changing.get(name):
            raise Conflict(f"the model {name!r} is {state}", "name")

    @contextmanager
    def _change(self, name: str, state: ModelState) -> Iterator[None]:
        self.changing[name] = state
        try:
            yield
        finally:
            del self.changing[name]
            if name not in self.served:
                self._metrics.remove_model(name)

    async def _compute_for(self, model: ModelSettings, progress: bool) -> tuple[ModelCard, _Computation]:
        """Have a computation for one name more; what goes wrong is told with the name."""
        try:
            card = await _on_a_thread_of_its_own(lambda: self._card(model, progress))
            return card, await self._computation(model, card)
        except StartFailure as failure:
            raise type(failure)(f"the model {model.name!r} cannot be served: {failure}") from failure
        except Exception as error:
            error.add_note(f"while loading the model {model.name!r}")
            raise

    async def _computation(self, model: ModelSettings, card: ModelCard) -> _Computation:
        settings = self._engine_settings(model)
        key = (replace(card, name="", allowed_dimensions=()), settings.precision)
        async with self._starting:
            if key not in self._computations:
                self._computations[key] = await self._start(card, settings)
            # The name is on the list before another task can find that nobody is.
            self._computations[key].names.append(model.name)
            return self._computations[key]

    def _serve(self, loaded: Loaded, computation: _Computation) -> None:
        name = loaded.settings.name
        self.loaded[name] = loaded
        self.served[name] = ServedModel(
            loaded.card, computation.tokeniser, computation.batcher, computation.uses, _withdrawal(loaded.settings)
        )
        if loaded.settings.level:
            self.levels[name] = loaded.settings.level
        self._metrics.add_model(name, loaded.load_s)

    async def _release(self, name: str) -> None:
        """Take `name` from its computation, which ends with its last name, once its requests have their answers."""
        key, computation = next(entry for entry in self._computations.items() if name in entry[1].names)
        computation.names.remove(name)
        if computation.names:
            computation.counted.count_under(computation.names[0])
            return
        del self._computations[key]
        try:
            await computation.uses.ended()
        finally:
            await computation.batcher.stop(grace_s=0)

    def _card(self, model: ModelSettings, progress: bool) -> ModelCard:
        folder = locate(model, self._settings.cache.path, progress)
        return read_card(model.name, folder.resolve(), catalog().get(model.name))

    def _engine_settings(self, model: ModelSettings) -> EngineSettings:
        common = self._settings.engine
        return msgspec.structs.replace(common, precision=model.precision or common.precision)

    async def _start(self, card: ModelCard, settings: EngineSettings) -> _Computation:
        reading = asyncio.create_task(asyncio.to_thread(_tokeniser, card))
        try:
            engine = await asyncio.to_thread(self._load, card, settings, self._settings.cache.path)
        except BaseException:
            reading.cancel()
            raise
        try:
            tokeniser = await reading
            cache = _vector_cache(self._settings.cache.max_vector_bytes, engine.dimensions)
        except BaseException:
            await engine.close()
            raise
        counted, patience_s = self._metrics.engine_of(card.name), self._settings.requests.timeout_ms / 1000
        reuse = Reuse(settings.share_equal_items, cache)
        batcher = Batcher(engine, self._settings.queue, observer=counted, patience_s=patience_s, reuse=reuse)
        await batcher.start()
        return _Computation(engine, tokeniser, batcher, counted, Uses(), [])


def _vector_cache(max_bytes: int, dimensions: int) -> VectorCache | None:
    if not max_bytes:
        return None
    try:
        return VectorCache(max_bytes, dimensions)
    except (ValueError, MemoryError) as error:
        raise InvalidConfig(f"cache.max_vector_bytes: {error}") from error


def _withdrawal(model: ModelSettings) -> Withdrawal | None:
    told = Withdrawal(model.deprecated, model.sunset, model.deprecation_link)
    return None if told == Withdrawal() else told


async def _on_a_thread_of_its_own(call: Callable[[], T]) -> T:
    """Run `call` on a thread that the end of the process does not wait for: a download may take an hour."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the one who waits
            _tell(done, partial(done.set_exception, error))
        else:
            _tell(done, partial(done.set_result, result))

    threading.Thread(target=run, name="locate", daemon=True).start()
    return await done


def _tell(done: "asyncio.Future[T]", tell: Callable[[], None]) -> None:
    loop = done.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if done.done() else tell())


def _tokeniser(card: ModelCard) -> Tokeniser:
    image_token = card.shape.image_token if isinstance(card.shape, Qwen3VlShape) else None
    return Tokeniser(card.folder / "tokenizer.json", card.max_tokens, card.shape.vocabulary, image_token)


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
