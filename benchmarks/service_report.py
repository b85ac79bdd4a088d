"""Tells what `service.py` measured: a page of tables, the README's table, a plot.

python benchmarks/service_report.py        the page and the plot anew from the results file (needs matplotlib)
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import origin
from subjects import SUBJECTS

RESULTS = Path(__file__).resolve().parent / "results" / "service"
OURS = "quartzite"
NOT_PEERS = ("quartzite", "quartzite-cache", "quartzite-int8", "quartzite-int8-dynamic", "bare", "product")
NAMES = {
    "quartzite": "Quartzite bf16",
    "quartzite-cache": "Quartzite bf16, 5 MB of vectors kept",
    "quartzite-int8": "Quartzite int8",
    "quartzite-int8-dynamic": "Quartzite int8-dynamic",
    "vllm": "vLLM bf16, all cores",
    "vllm-reserved": "vLLM bf16, one core reserved",
    "infinity": "Infinity, PyTorch bf16",
    "infinity-f32": "Infinity, PyTorch f32",
    "llama": "llama-cpp-python f16",
    "st-torch": "sentence-transformers, PyTorch bf16",
    "st-f32": "sentence-transformers, PyTorch f32",
    "st-onnx": "sentence-transformers, ONNX f32",
    "st-openvino": "sentence-transformers, OpenVINO bf16",
    "fastembed": "fastembed, ONNX f32",
}
Rounds = list[dict[str, float]]


@dataclass(frozen=True)
class Column:
    """One figure of a workload as a column; `better` is max or min."""

    workload: str
    figure: str
    title: str
    form: str
    better: Callable[..., float] = max


COLUMNS = (
    Column("queries-1", "p50_ms", "1 client, p50 ms", "{:,.2f}", min),
    Column("queries-16", "requests_per_s", "16 clients, requests/s", "{:,.0f}"),
    Column("queries-64", "requests_per_s", "64 clients, requests/s", "{:,.0f}"),
    Column("chunks", "tokens_per_s", "chunks, tokens/s", "{:,.0f}"),
    Column("even", "tokens_per_s", "32 x 128, tokens/s", "{:,.0f}"),
    Column("long", "tokens_per_s", "8192 tokens, tokens/s", "{:,.0f}"),
    Column("chunks", "cpu_s_per_million_tokens", "CPU s per million tokens (chunks)", "{:,.0f}", min),
    Column("images-640x480", "requests_per_s", "640 x 480, images/s", "{:,.2f}"),
    Column("images-640x480", "tokens_per_s", "640 x 480, image tokens/s", "{:,.0f}"),
    Column("images-1920x1080", "p50_ms", "1920 x 1080, 1 client, p50 ms", "{:,.0f}", min),
)
MIXED = (
    Column("mixed", "alone_p99_ms", "query p99 alone, ms", "{:,.1f}", min),
    Column("mixed", "p99_ms", "with bulk, ms", "{:,.1f}", min),
    Column("mixed", "bulk_alone_tokens_per_s", "bulk alone, tokens/s", "{:,.0f}"),
    Column("mixed", "bulk_tokens_per_s", "with queries, tokens/s", "{:,.0f}"),
)


def median(rounds: Rounds, figure: str) -> float | None:
    """Return the median of a figure over the rounds; None where no round has it."""
    values = [turn[figure] for turn in rounds if turn.get(figure) == turn.get(figure, float("nan"))]
    return statistics.median(values) if values else None


def figure_of(workloads: Mapping[str, Any], column: Column, contender: str) -> float | None:
    """Return what a contender reached in a column."""
    return median(workloads.get(column.workload, {}).get(contender, []), column.figure)


def best_peer(workloads: Mapping[str, Any], column: Column) -> tuple[str, float] | None:
    """Return the peer that did best in a column, and its figure."""
    reached = {
        name: value
        for name in workloads.get(column.workload, {})
        if name not in NOT_PEERS and (value := figure_of(workloads, column, name)) is not None
    }
    return column.better(reached.items(), key=_value) if reached else None


def _value(pair: tuple[str, float]) -> float:
    return pair[1]


def ratio(workloads: Mapping[str, Any], column: Column, contender: str = OURS) -> float | None:
    """Return how many times better than the best peer a contender is; above 1 is better, whatever the column counts."""
    ours, peer = figure_of(workloads, column, contender), best_peer(workloads, column)
    if not ours or not peer or not peer[1]:
        return None
    return peer[1] / ours if column.better is min else ours / peer[1]


def page(results: Mapping[str, Any]) -> str:
    """Return everything as a page of Markdown."""
    results = origin.told_apart(results)
    lines = ["# Quartzite and its peers over HTTP", ""]
    lines += ["Medians of alternating rounds. How it is measured: [docs/benchmarks.md](../../docs/benchmarks.md)."]
    lines += [f"Other processes took {_others(results):.0%} of the processors in the median turn."]
    lines += ["Tables of different machines are not to be compared; ratios within one are.", ""]
    for model in results["measured"]:
        lines += [f"## {SUBJECTS[model].name}", ""]
        for machine, workloads, servers in origin.by_machine(results, model):
            when = origin.moments(results["origins"][model], list(workloads))
            lines += [f"Machine: {origin.described(machine)}; {when}.", ""]
            lines += [*_table(workloads, servers, COLUMNS, with_facts=True), ""]
            lines += _mixed(workloads)
            lines += _limits(workloads)
            lines += _failures(servers)
    return "\n".join(lines).rstrip() + "\n"


def _others(results: Mapping[str, Any]) -> float:
    """Return the median over all turns of the share of the processors that went to others."""
    workloads = [workload for model in results["measured"].values() for workload in model.values()]
    turns = [turn for contenders in workloads for rounds in contenders.values() for turn in rounds]
    return median(turns, "others_share") or 0.0


def _table(
    workloads: Mapping[str, Any], servers: Mapping[str, Any], columns: tuple[Column, ...], with_facts: bool
) -> list[str]:
    columns = tuple(column for column in columns if column.workload in workloads)
    titles = [column.title for column in columns] + (["peak MiB", "first vector s", "cosine"] if with_facts else [])
    names = [name for name in NAMES if any(figure_of(workloads, column, name) is not None for column in columns)]
    rows = []
    for name in names:
        cells = [_cell(column.form, figure_of(workloads, column, name)) for column in columns]
        rows.append([NAMES[name], *cells, *(_facts(servers.get(name, {})) if with_facts else [])])
    told = [_cell("{:.2f}", ratio(workloads, column)) for column in columns]
    if any(told):
        rows.append(["**Quartzite to the best peer**", *told, *([""] * 3 if with_facts else [])])
    return _markdown(["server", *titles], rows)


def _facts(server: Mapping[str, Any]) -> list[str]:
    starts = server.get("starts_s")
    return [
        _cell("{:,.0f}", server.get("peak_mib")),
        _cell("{:.2f}", statistics.median(starts) if starts else None),
        _cell("{:.6f}", server.get("cosine")),
    ]


def _cell(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def _markdown(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _mixed(workloads: Mapping[str, Any]) -> list[str]:
    if "mixed" not in workloads:
        return []
    return ["Mixed tenants:", "", *_table(workloads, {}, MIXED, with_facts=False), ""]


def _limits(workloads: Mapping[str, Any]) -> list[str]:
    """Return Quartzite's share of bare OpenVINO and of bare products, in sentences."""
    lines = []
    for column in COLUMNS[3:5]:
        ours = figure_of(workloads, column, OURS)
        bare, product = (figure_of(workloads, column, name) for name in ("bare", "product"))
        if ours and bare and product:
            gflops = median(workloads[column.workload]["product"], "gflops") or 0
            lines.append(
                f"- {column.title.partition(',')[0]}: {ours / bare:.0%} of bare OpenVINO at its best shape "
                f"({bare:,.0f} tokens/s), {ours / product:.0%} of bare products ({gflops:,.0f} GFLOP/s)."
            )
    return ["Quartzite bf16 against the machine's limit:", "", *lines, ""] if lines else []


def _failures(servers: Mapping[str, Any]) -> list[str]:
    failed = [f"- {NAMES[name]} did not run." for name, facts in servers.items() if "failed" in facts]
    return [*failed, ""] if failed else []


def _times(times: float) -> str:
    """Return a ratio for the README; near 1 with a digit more, as one alone would hide who is ahead."""
    return f"{times:.1f}" if times >= 2 else f"{times:.2f}"


def readme(results: Mapping[str, Any]) -> str:
    """Return the README's part: a table a machine, one row a model and workload, Quartzite beside the best peer."""
    results = origin.told_apart(results)
    tables: dict[str, list[list[str]]] = {}
    dates: dict[str, set[str]] = {}
    for model in results["measured"]:
        for machine, workloads, _ in origin.by_machine(results, model):
            name = origin.described(machine)
            tables.setdefault(name, []).extend(_rows(model, workloads))
            dates.setdefault(name, set()).update(origin.dates(results["origins"][model], list(workloads)))
    lines = ["The last column says how many times better."]
    for name, rows in tables.items():
        if rows:
            lines += ["", f"Machine: {name}; {' to '.join(sorted({min(dates[name]), max(dates[name])}))}.", ""]
            lines += _markdown(["model", "what", "Quartzite bf16", "best peer", "times"], rows)
    return "\n".join(lines)


def _rows(model: str, workloads: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for column in (COLUMNS[index] for index in (0, 2, 3, 5)):
        ours, peer = figure_of(workloads, column, OURS), best_peer(workloads, column)
        times = ratio(workloads, column)
        if ours and peer and times:
            best = f"{column.form.format(peer[1])} ({NAMES[peer[0]]})"
            rows.append([SUBJECTS[model].name, column.title, column.form.format(ours), best, _times(times)])
    return rows


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw requests and tokens per second, a panel a model and workload, every round a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = origin.told_apart(results)
    shown = [(model, column) for model in results["measured"] for column in _drawn(results["measured"][model])]
    rows = (len(shown) + 1) // 2
    figure, panels = pyplot.subplots(rows, 2, figsize=(12, 2.8 * rows), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, (model, column) in zip(panels.flat, shown, strict=False):
        _bars(panel, results["measured"][model], column)
        processor = results["origins"][model][column.workload][-1]["machine"]["processor"].partition(",")[0]
        panel.set_title(f"{SUBJECTS[model].name}: {column.title}; {processor}", fontsize=9, loc="left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _drawn(workloads: Mapping[str, Any]) -> list[Column]:
    return [column for column in (COLUMNS[2], COLUMNS[3], COLUMNS[5]) if column.workload in workloads]


def _bars(panel: Any, workloads: Mapping[str, Any], column: Column) -> None:
    names = [name for name in NAMES if figure_of(workloads, column, name) is not None][::-1]
    colours = ["#3b6ea5" if name.startswith(OURS) else "#b0b0b0" for name in names]
    panel.barh([NAMES[name] for name in names], [figure_of(workloads, column, name) for name in names], color=colours)
    for place, name in enumerate(names):
        rounds = [turn[column.figure] for turn in workloads[column.workload][name]]
        panel.plot(rounds, [place] * len(rounds), "k.", markersize=3)
    panel.tick_params(labelsize=7)


def main() -> None:
    """Write the page and the plot from the results file."""
    results = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8"))
    RESULTS.with_suffix(".md").write_text(page(results), encoding="utf-8")
    plot(results, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
