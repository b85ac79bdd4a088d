"""Writes what a benchmark measured as JSON, as a table and as a plot."""

import json
from pathlib import Path
from typing import Any


def write(measured: dict[str, Any], stem: Path) -> None:
    """Write `stem`.json, `stem`.md and `stem`.png, and print the table."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    page = table(measured)
    stem.with_suffix(".md").write_text(page, encoding="utf-8")
    plot(measured, stem.with_suffix(".png"))
    print(page)


def table(measured: dict[str, Any]) -> str:
    """Return the results as a page of Markdown: medians, and each as a multiple of the best PyTorch figure."""
    machine = "; ".join(measured["machine"].values())
    lines = ["# Engine throughput", "", f"Made by `make bench-engine` on {measured['date']}. Machine: {machine}.", ""]
    lines += [
        "Text: docstrings of the standard library, 60 to 2,200 characters, shuffled, the same for all; tokens counted "
        "after the model's own limit. Medians of alternating rounds; tokenising and L2 included, except for bare "
        "OpenVINO.",
        "",
    ]
    for result in measured["results"]:
        lines += _result(result)
    return "\n".join(lines) + "\n"


def _result(result: dict[str, Any]) -> list[str]:
    medians = {name: rates["median"] for name, rates in result["tokens_per_s"].items()}
    torch = max(rate for name, rate in medians.items() if name.startswith("PyTorch"))
    rows = [
        f"| {name} | {rate:,.0f} | {rate / torch:.2f} | {_cosine(result, name)} |" for name, rate in medians.items()
    ]
    heading = f"## {result['model']}: {result['texts']} texts, {result['tokens']:,} tokens"
    columns = ["| engine | tokens/s | to the best PyTorch | lowest cosine to PyTorch f32 |", "|---|---:|---:|---:|"]
    return [heading, "", *columns, *rows, ""]


def _cosine(result: dict[str, Any], name: str) -> str:
    known = {key: value for key, value in result["lowest_cosine_to_torch_f32"].items() if name.startswith(key)}
    return f"{known[max(known, key=len)]:.6f}" if known else ""


def plot(measured: dict[str, Any], file: Path) -> None:
    """Draw tokens per second of every engine, one panel a model, with every round as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = measured["results"]
    figure, panels = pyplot.subplots(len(results), 1, figsize=(8, 2.2 * len(results)), squeeze=False)
    for panel, result in zip(panels[:, 0], results, strict=True):
        names = list(result["tokens_per_s"])[::-1]
        rates = [result["tokens_per_s"][name] for name in names]
        colours = ["#3b6ea5" if name.startswith("Quartzite") else "#b0b0b0" for name in names]
        panel.barh(names, [rate["median"] for rate in rates], color=colours)
        for place, rate in enumerate(rates):
            panel.plot(rate["rounds"], [place] * len(rate["rounds"]), "k.", markersize=3)
        panel.set_title(f"{result['model']}, tokens/s", fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
