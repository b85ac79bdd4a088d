"""Logging set-up: lines of text for people, lines of JSON for machines. Knows nothing of what is logged.

Code logs through the standard library: `logger.info("request", extra=fields(status=200, ...))`. structlog renders the
JSON and is imported only then, for it adds a tenth of a second to the start.
"""

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

from quartzite.config import LogFormat

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger


_PLAIN = re.compile(r"[\w.:/@+-]+").fullmatch


def set_up_logging(form: LogFormat, stream: TextIO | None = None) -> None:
    """Send all logs to `stream`, stderr unless given: our own from INFO, those of libraries from WARNING."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_json_formatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("quartzite").setLevel(logging.INFO)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not shown, so not looked up
    logging._srcfile = None  # nor is the place of the call ("Optimization" in the library's documents)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the `extra` of a log call that says `values`; those that are None are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


class TextFormatter(logging.Formatter):
    """One line for people: local time, level, event, then `name=value`; a stack follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%d %H:%M:%S")
        self._time = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  as below
        """Return the time of `record`, made once a second."""
        second = int(record.created)
        if self._time[0] != second:
            self._time = second, super().formatTime(record, datefmt)
        return self._time[1]

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """Return the line of `record` without its stack."""
        said = [f" {name}={_shown(value)}" for name, value in getattr(record, "fields", {}).items()]
        return f"{self.formatTime(record, self.datefmt)} {record.levelname} {record.message}{''.join(said)}"


def _shown(value: object) -> str:
    """Quote what could be taken for another field or another line: some values come from clients."""
    text = str(value)
    return text if isinstance(value, int | float) or _PLAIN(text) else json.dumps(text)


def _json_formatter() -> logging.Formatter:
    import orjson
    from structlog import processors, stdlib

    def render(event: Any, **_: object) -> str:
        return orjson.dumps(event, default=str).decode()

    return stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            processors.TimeStamper(fmt="iso", utc=True),
            stdlib.add_log_level,
            stdlib.add_logger_name,
            _said,
        ],
        processors=[
            stdlib.ProcessorFormatter.remove_processors_meta,
            processors.format_exc_info,
            processors.JSONRenderer(serializer=render),
        ],
    )


def _said(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    return {**event, **getattr(event["_record"], "fields", {})}
