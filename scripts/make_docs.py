"""Write the generated pages of docs/ from the code; `--check` fails if they are not up to date.

The README's table of speed is made here too, from the committed results of the benchmarks.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer.main

from quartzite.cli.main import app
from quartzite.config import DEFAULT_MODEL, RequestSettings, Section, Settings, explain
from quartzite.errors import WIRE, StartFailure
from quartzite.telemetry.metrics import METRICS
from quartzite.web.examples import EXAMPLES
from quartzite.web.failures import render
from quartzite.web.openapi import openapi

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results" / "service.json"
SPEED = "<!-- Made by `make docs` from benchmarks/results/service.json. -->", "<!-- End of what is made. -->"
MADE = "<!-- Made by `make docs` from the code; change it there. -->"


def main() -> None:
    """Write or compare every page."""
    pages = {
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "metrics.md": metrics_page(),
        "cli.md": cli_page(),
        "openapi.json": openapi_page(),
        "../README.md": readme(),
    }
    if "--check" not in sys.argv[1:]:
        for name, page in pages.items():
            (DOCS / name).write_text(page, encoding="utf-8")
        return
    stale = [name for name, page in pages.items() if not _is_current(DOCS / name, page)]
    if stale:
        sys.exit(f"docs: {', '.join(stale)} no longer say what the code says; run: make docs")


def readme() -> str:
    """Return the README with its table of speed as the results have it."""
    sys.path.append(str(ROOT / "benchmarks"))
    import service_report

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(SPEED[0])
    _, end, after = rest.partition(SPEED[1])
    measured = RESULTS.exists()
    table = service_report.readme(json.loads(RESULTS.read_text(encoding="utf-8"))) if measured else "Not measured yet."
    return f"{before}{begin}\n{table}\n{end}{after}"


def _is_current(file: Path, page: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == page


def settings_page() -> str:
    """Return the page of all settings, table by table."""
    lines = [
        "# Settings",
        MADE,
        "Settings stand in a TOML file, `quartzite serve --config FILE`; what is not said there has its default. Flags",
        "and their environment variables ([cli.md](cli.md)) win over the file. Unknown keys and wrong values stop the",
        "start with a message that lists all of them. `quartzite serve --show-settings` prints the settings in force.",
        "",
    ]
    return "\n".join([*lines, *_settings_tables()])


def _settings_tables() -> Iterator[str]:
    for name, hint in get_type_hints(Settings).items():
        repeats = get_origin(hint) is tuple
        section: type[Section] = get_args(hint)[0] if repeats else hint
        yield f"## `[[{name}]]`" if repeats else f"## `[{name}]`"
        yield from (section.__doc__ or "", "", "| key | value | default | meaning |", "|---|---|---|---|")
        for setting in explain(section):
            default = "required" if setting.required else _shown(setting.default)
            yield f"| `{setting.path}` | {setting.type} | {default} | {setting.description} |"
        yield ""


def _shown(value: object) -> str:
    if value in (None, ()):
        return "not set"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def errors_page() -> str:
    """Return the page of all failures: what clients are answered, and what stops a start."""
    lines = [
        "# Errors",
        MADE,
        "## What clients are answered",
        "Every answer carries `x-siliconcloud-trace-id`. In the object form `data` points to the place at fault.",
        "Retry what is marked so after a while; the rest fails again until the request is changed.",
        "",
        "| failure | status | code | retry | when |",
        "|---|---|---|---|---|",
    ]
    for kind, row in WIRE.items():
        code, retry = row.code or "", "yes" if row.retryable else "no"
        lines.append(f"| {kind.__name__} | {row.status} | {code} | {retry} | {_sentence(kind)} |")
    lines += ["", "Bodies, as sent:", "", "```"]
    for failure in EXAMPLES:
        answer = render(failure)
        lines.append(f"{answer.status_code} {bytes(answer.body).decode()}")
    lines += ["```", "", "## What stops a command", ""]
    lines += ["The message on the terminal says what to change. Exit code 2 for wrong settings, 1 for the others.", ""]
    lines += ["| failure | when |", "|---|---|"]
    stopping: list[type[StartFailure]] = [StartFailure, *StartFailure.__subclasses__()]
    lines += [f"| {kind.__name__} | {_sentence(kind)} |" for kind in stopping]
    return "\n".join([*lines, ""])


def _sentence(kind: type) -> str:
    return (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")


def metrics_page() -> str:
    """Return the page of all metrics."""
    lines = [
        "# Metrics",
        MADE,
        "`GET /metrics` answers in Prometheus' text format, without a key. Times are in seconds. A histogram is three",
        "metrics: `_bucket` by upper bound `le`, `_sum` and `_count`. Series of a served model exist once it is",
        "loaded. Names that share weights share an engine: it is counted under the first of them. Facts about",
        "the process (`process_*`, `python_*`) are those of prometheus-client. A dashboard for Grafana that shows all",
        "of it: [deploy/grafana-dashboard.json](../deploy/grafana-dashboard.json).",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    lines += ["", "Upper bounds of the histograms' buckets, in the unit of the name:", ""]
    for metric in METRICS:
        if metric.buckets:
            lines.append(f"- `{metric.name}`: {', '.join(f'{bound:g}' for bound in metric.buckets)}")
    return "\n".join([*lines, ""])


def openapi_page() -> str:
    """Return the OpenAPI document of a server with the settings as they come."""
    return json.dumps(openapi(RequestSettings(), [DEFAULT_MODEL], admin=True), indent=1, ensure_ascii=False) + "\n"


def cli_page() -> str:
    """Return the page of all commands with their flags."""
    root: Any = typer.main.get_command(app)
    lines = ["# Command line", MADE, root.help, "", root.epilog, ""]
    return "\n".join([*lines, *_commands(root, "quartzite")])


def _commands(command: Any, name: str) -> Iterator[str]:
    for word, child in getattr(command, "commands", {}).items():
        path = f"{name} {word}"
        if not hasattr(child, "commands"):
            yield from _command(child, path)
        yield from _commands(child, path)


def _command(command: Any, path: str) -> Iterator[str]:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    words = [f"[{argument.name.upper()}]..." if argument.nargs == -1 else argument.metavar for argument in arguments]
    yield from (f"## `{' '.join([path, *words])}`", command.help, "")
    yield from ("| flag | environment | meaning |", "|---|---|---|")
    yield from (f"| `{word}` | | {argument.help} |" for word, argument in zip(words, arguments, strict=True))
    for option in command.params:
        if option.param_type_name == "option":
            variable = f"`{option.envvar}`" if option.envvar else ""
            yield f"| `{', '.join(option.opts)}` | {variable} | {option.help} |"
    yield ""


if __name__ == "__main__":
    main()
