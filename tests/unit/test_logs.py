"""Log lines for people and for machines."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from quartzite.config import LogFormat
from quartzite.telemetry.logs import fields, set_up_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Leave the process's logging as it was found."""
    root, ours = logging.getLogger(), logging.getLogger("quartzite")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def _logged(form: LogFormat, event: str, **values: object) -> str:
    stream = io.StringIO()
    set_up_logging(form, stream)
    logging.getLogger("quartzite.web").info(event, extra=fields(**values))
    return stream.getvalue()


def test_text_lines_say_each_field_once_and_leave_out_what_is_not_known() -> None:
    """A line reads: time, level, event, then the fields in the order given."""
    line = _logged("text", "request", status=200, model=None, ms=1.25)
    assert line.split(" ", 2)[2] == "INFO request status=200 ms=1.25\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_value_of_a_client_cannot_forge_a_line(form: LogFormat) -> None:
    """Line breaks, spaces and quotes in a path stay within its field, on its line."""
    line = _logged(form, "request", path='/x\n2026 INFO request status="200"', empty="")
    assert line.count("\n") == 1
    assert r"/x\n2026 INFO request status=\"200\"" in line


def test_json_lines_are_objects_with_time_level_logger_event_and_fields() -> None:
    """A machine finds everything by name."""
    line = json.loads(_logged("json", "request", status=200, model="m", tokens=None))
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == {"event": "request", "level": "info", "logger": "quartzite.web", "status": 200, "model": "m"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_stacks_are_kept(form: LogFormat) -> None:
    """An exception is logged with its stack and its cause, in one object when the form is JSON."""
    stream = io.StringIO()
    set_up_logging(form, stream)
    try:
        int("seven")
    except ValueError:
        logging.getLogger("quartzite").exception("failed", extra=fields(trace_id="ti_1"))
    text = stream.getvalue()
    assert "test_stacks_are_kept" in text
    assert "ti_1" in text
    if form == "json":
        assert "seven" in json.loads(text)["exception"]


def test_libraries_are_heard_from_warnings_on() -> None:
    """What other libraries tell about their own work stays out of the log, their warnings do not."""
    stream = io.StringIO()
    set_up_logging("text", stream)
    logging.getLogger("httpx").info("chatter")
    logging.getLogger("httpx").warning("trouble")
    assert "chatter" not in stream.getvalue()
    assert "trouble" in stream.getvalue()


def test_text_logging_does_not_load_what_it_does_not_need() -> None:
    """The slow imports structlog and rich stay out of the process until JSON is asked for."""
    code = (
        "import sys; from quartzite.telemetry.logs import set_up_logging; set_up_logging('text');"
        "sys.exit(bool({'structlog', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
