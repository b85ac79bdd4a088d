"""Settings: frozen, with units in their names; `reading.py` makes them from a file and flags.

Knows nothing of the parts that use them. Every field carries its help text; `docs/settings.md` is made from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

Precision = Literal["auto", "f32", "bf16", "int8", "int8-dynamic"]
TokenArrays = Literal["model", "reject"]
LogFormat = Literal["text", "json"]
WhenDown = Literal["open", "closed"]
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
ModelPixels = Annotated[int, Meta(ge=1_024, le=33_554_432)]
Level = Annotated[int, Meta(ge=0, le=5)]
SECRET = {"secret": True}
"""The `extra` of a setting that must not be shown."""


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings tables."""


class ServerSettings(Section, frozen=True, kw_only=True):
    """Where the service listens, and how it ends."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port to listen on; 0 takes a free one.")] = 8000
    no_auth: Annotated[
        bool,
        Meta(description="Ask nobody for a key, although other machines are let in or there are keys in the database."),
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(description="Web pages that may call from a browser, such as `https://example.org`; `*` for all of them."),
    ] = ()
    log_format: Annotated[LogFormat, Meta(description="`text` for people, `json` for machines.")] = "text"
    shutdown_grace_s: Annotated[
        Natural, Meta(description="How long running requests may go on after a stop signal, in seconds.")
    ] = 30
    max_connections: Annotated[
        Positive,
        Meta(
            description="Most connections at once. One more takes the place of the one that is idle longest, or is "
            "answered 503. The system's limit of open files may lower it."
        ),
    ] = 10_000
    header_timeout_ms: Annotated[
        Positive, Meta(description="How long a client may take to send the headers of a request, in milliseconds.")
    ] = 10_000
    max_header_bytes: Annotated[Positive, Meta(description="Most bytes of a request's line and headers together.")] = (
        64 * 1024
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can call; names other than `localhost` are not looked up and count as others."""
        import ipaddress

        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class ModelSettings(Section, frozen=True, kw_only=True):
    """One served model; the table `[[models]]` repeats."""

    name: Annotated[str, Meta(min_length=1, description="The name clients send as `model`.")]
    folder: Annotated[
        str | None, Meta(description="A Hugging Face folder; without it the name is looked up in the catalogue.")
    ] = None
    revision: Annotated[
        str | None, Meta(description="Branch, tag or commit to download; default: the catalogue's.")
    ] = None
    precision: Annotated[Precision | None, Meta(description="Overrides `engine.precision` for this model.")] = None
    level: Annotated[Level, Meta(description="The level that an account needs to use this model.")] = 0
    deprecated: Annotated[
        date | None,
        Meta(description="The day, such as 2026-12-01, since or from which it should be used no more; answers say so."),
    ] = None
    sunset: Annotated[date | None, Meta(description="The day on which it is to end, not before `deprecated`.")] = None
    deprecation_link: Annotated[
        str | None, Meta(description="The address of a page about that, sent along as a `Link`.")
    ] = None


class EngineSettings(Section, frozen=True, kw_only=True):
    """How models are computed."""

    precision: Annotated[
        Precision,
        Meta(
            description="`auto` takes bf16 where the processor has it and f32 elsewhere; `int8-dynamic` also brings "
            "what meets int8 weights to int8, which is the fastest where the processor has VNNI; with AMX for "
            "BERT-like models and Qwen3-Embedding-0.6B."
        ),
    ] = "auto"
    streams: Annotated[
        Natural,
        Meta(
            description="Micro-batches computed side by side; 0 chooses one per core, and for models of more than a "
            "billion weights in layers one per four cores. Smaller ones are in memory twice, so that a micro-batch "
            "alone has up to four streams, and with AMX up to four times, for their full rows; 1 keeps them there once."
        ),
    ] = 0
    threads: Annotated[Natural, Meta(description="Processor threads of all streams together; 0 takes all cores.")] = 0
    micro_batch_tokens: Annotated[
        Natural, Meta(description="Most tokens packed into one micro-batch; 0 chooses by the model's size.")
    ] = 0
    device: Annotated[str, Meta(description="OpenVINO device; only CPU is tested.")] = "CPU"
    share_equal_items: Annotated[
        bool, Meta(description="Compute equal items that are asked for at the same time once, whoever asks.")
    ] = True


class RequestSettings(Section, frozen=True, kw_only=True):
    """What one request may ask for."""

    max_inputs_per_request: Annotated[Positive, Meta(description="Most items in `input`.")] = 32
    max_body_bytes: Annotated[Positive, Meta(description="Largest request body, in bytes.")] = 32 * 1024 * 1024
    max_bodies_bytes: Annotated[
        Positive,
        Meta(description="Most bytes of the bodies of all running requests together, beyond which requests get 503."),
    ] = 512 * 1024 * 1024
    body_timeout_ms: Annotated[
        Positive, Meta(description="How long a client may take to send a body, in milliseconds.")
    ] = 60_000
    token_arrays: Annotated[
        TokenArrays,
        Meta(description="`model` takes token arrays as ids of the model's own vocabulary, `reject` refuses them."),
    ] = "model"  # noqa: S105  a mode, no password
    timeout_ms: Annotated[
        Positive, Meta(description="How long a request may take before it is answered 504, in milliseconds.")
    ] = 60_000
    timeout_with_images_ms: Annotated[
        Positive, Meta(description="The same for requests with images, of which each may take a processor minutes.")
    ] = 600_000


class ImageSettings(Section, frozen=True, kw_only=True):
    """Pictures in requests, for models that take them."""

    fetch: Annotated[bool, Meta(description="Fetch pictures that are given as URLs; else they are refused.")] = True
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts to fetch from although their addresses are not public: `HOST`, for ports 80 and 443, or "
            "`HOST:PORT`."
        ),
    ] = ()
    max_image_bytes: Annotated[Positive, Meta(description="Largest file of one picture, in bytes.")] = 20 * 1024 * 1024
    max_source_pixels: Annotated[
        Positive, Meta(description="Most pixels of a picture as it comes; more are refused before they are decoded.")
    ] = 50_000_000
    connect_timeout_ms: Annotated[
        Positive, Meta(description="How long connecting to a host may take, in milliseconds.")
    ] = 3_000
    fetch_timeout_ms: Annotated[
        Positive, Meta(description="How long fetching one picture may take in all, in milliseconds.")
    ] = 10_000
    max_redirects: Annotated[Natural, Meta(description="Most redirects followed for one picture.")] = 3
    fetches: Annotated[Positive, Meta(description="Pictures fetched at the same time.")] = 16
    decoders: Annotated[
        Positive, Meta(description="Processes that decode pictures side by side; they start with the first picture.")
    ] = 2
    max_held_bytes: Annotated[
        Positive,
        Meta(description="Most memory for the pictures of all running requests, in bytes; beyond it they get 503."),
    ] = 1024 * 1024 * 1024
    min_pixels: Annotated[
        ModelPixels, Meta(description="Pictures of fewer pixels are enlarged to about as many for the model.")
    ] = 4_096
    max_pixels: Annotated[
        ModelPixels, Meta(description="Pictures of more pixels are scaled down to at most as many for the model.")
    ] = 1_843_200
    turn_by_exif: Annotated[
        bool, Meta(description="Turn pictures as their EXIF data says; the models were trained without.")
    ] = False


class QueueSettings(Section, frozen=True, kw_only=True):
    """How much work may wait per model before requests are answered 503."""

    max_tokens: Annotated[Positive, Meta(description="Most tokens waiting.")] = 500_000
    max_requests: Annotated[Positive, Meta(description="Most requests waiting.")] = 2_000
    max_wait_ms: Annotated[
        Positive,
        Meta(
            description="Longest wait that a request may have before it, in milliseconds, by how fast the engine has "
            "worked lately; a request with less time than it needs is refused as well."
        ),
    ] = 30_000


class AccessSettings(Section, frozen=True, kw_only=True):
    """Who may use the service, besides the accounts of the database."""

    api_keys: Annotated[
        tuple[str, ...],
        Meta(description="Keys that need no database; all of them are one account, named `settings`.", extra=SECRET),
    ] = ()
    level: Annotated[Level, Meta(description="The level of that account.")] = 0


class AdminSettings(Section, frozen=True, kw_only=True):
    """Who may change accounts, keys and models over HTTP."""

    token: Annotated[
        str | None,
        Meta(
            description="What callers of `/admin` must have; without it there are no such paths.",
            extra=SECRET,
        ),
    ] = None


class LevelSettings(Section, frozen=True, kw_only=True):
    """The limits of accounts of one level, per account and model; 0 sets no limit. The table `[[levels]]` repeats.

    An account whose level has no table has no limits. A table with `model` goes before one without.
    """

    level: Annotated[Level, Meta(description="The level, of L0 to L5.")]
    model: Annotated[str | None, Meta(description="The one model that this table is for; default: each model.")] = None
    requests_per_minute: Annotated[Natural, Meta(description="RPM.")] = 0
    requests_per_hour: Annotated[Natural, Meta(description="RPH.")] = 0
    requests_per_day: Annotated[Natural, Meta(description="RPD.")] = 0
    tokens_per_minute: Annotated[Natural, Meta(description="TPM.")] = 0
    tokens_per_day: Annotated[Natural, Meta(description="TPD.")] = 0
    user_requests_per_minute: Annotated[Natural, Meta(description="RPM of each `user` inside an account.")] = 0
    user_tokens_per_minute: Annotated[Natural, Meta(description="TPM of each `user` inside an account.")] = 0


class LimitSettings(Section, frozen=True, kw_only=True):
    """Where the limits of `[[levels]]` are counted."""

    shared_url: Annotated[
        str | None,
        Meta(
            description="`redis://HOST:PORT/DB` of the Redis or Valkey in which several gateways count together; "
            "default: each counts for itself.",
            extra=SECRET,
        ),
    ] = None
    when_down: Annotated[
        WhenDown,
        Meta(description="While that store is down: `open` lets each gateway count for itself, `closed` answers 503."),
    ] = "open"


class CacheSettings(Section, frozen=True, kw_only=True):
    """What is kept: model files on disk, and vectors in memory."""

    folder: Annotated[str, Meta(description="Folder for downloaded and unpacked models.")] = "~/.cache/quartzite"
    max_vector_bytes: Annotated[
        Natural,
        Meta(
            description="Most memory per model for the vectors of the items asked for last, in bytes: they are not "
            "computed again. 0 keeps none."
        ),
    ] = 0

    @property
    def path(self) -> Path:
        """The folder with `~` expanded."""
        return Path(self.folder).expanduser()


class StorageSettings(Section, frozen=True, kw_only=True):
    """Where accounts, keys and the record of requests are kept."""

    url: Annotated[
        str | None,
        Meta(
            description="`sqlite:///FILE` or `postgresql://USER@HOST/NAME`; default: SQLite in the data folder.",
            extra=SECRET,
        ),
    ] = None
    data_folder: Annotated[str, Meta(description="Folder for the database file.")] = "~/.local/share/quartzite"
    retention_days: Annotated[
        Natural, Meta(description="How long the record of a request is kept, in days; 0 keeps it for ever.")
    ] = 400

    @property
    def file(self) -> Path:
        """The database file that is used when no `url` is set."""
        return Path(self.data_folder).expanduser().absolute() / "quartzite.db"

    @property
    def in_use(self) -> bool:
        """Whether a database was asked for, or made earlier."""
        return self.url is not None or self.file.exists()

    @property
    def database_url(self) -> str:
        """The URL of the database in use; its file need not exist yet."""
        return self.url or f"sqlite:///{self.file.as_posix()}"


class TelemetrySettings(Section, frozen=True, kw_only=True):
    """What is told of requests, besides logs and metrics."""

    spans: Annotated[
        bool,
        Meta(description="Send OpenTelemetry spans of every request over OTLP/HTTP, as the OTEL_* variables say."),
    ] = False


class Settings(Section, frozen=True, kw_only=True):
    """All settings of one server."""

    server: ServerSettings = ServerSettings()
    models: tuple[ModelSettings, ...] = (ModelSettings(name=DEFAULT_MODEL),)
    engine: EngineSettings = EngineSettings()
    requests: RequestSettings = RequestSettings()
    images: ImageSettings = ImageSettings()
    queue: QueueSettings = QueueSettings()
    cache: CacheSettings = CacheSettings()
    access: AccessSettings = AccessSettings()
    admin: AdminSettings = AdminSettings()
    levels: tuple[LevelSettings, ...] = ()
    limits: LimitSettings = LimitSettings()
    storage: StorageSettings = StorageSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def keys_possible(self) -> bool:
        """Whether there can be keys: in the settings, in a database, or made over HTTP later."""
        return bool(self.access.api_keys or self.admin.token) or self.storage.in_use


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documents and flags show it; `path` is `server.port`, or `models[].name` in a repeated table.

    `type` is in words, and `default` is None for a setting that has none or that is required. A `secret` is not shown.
    """

    path: str
    type: str
    default: object
    required: bool
    description: str
    secret: bool = False


def explain(kind: type[Section] = Settings, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of `kind` in the order of the file, those of its tables in their place."""
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        hint, path = hints[field.name], prefix + field.name
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from explain(hint, f"{path}.")
        elif get_origin(hint) is tuple:
            yield from explain(get_args(hint)[0], f"{path}[].")
        else:
            inner, *metas = get_args(hint)
            default = None if field.required else field.default
            words, secret = metas[-1].description, metas[-1].extra == SECRET
            yield Setting(path, _in_words(inner, metas), default, field.required, words, secret)


def _in_words(hint: Any, metas: Sequence[Meta] = ()) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_in_words(get_args(hint)[0])}s"
    return {str: "text", bool: "true or false", int: "integer", date: "day"}[hint] + _bounds(metas)


def _bounds(metas: Sequence[Meta]) -> str:
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    most = next((meta.le for meta in metas if meta.le is not None), None)
    if most is not None:
        return f", {least} to {most}"
    return f", at least {least}" if least is not None else ""
