"""Tells what `length.py` measured: a page and a plot.

python benchmarks/length_report.py        both anew from the results file (needs matplotlib)
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import origin
from subjects import SUBJECTS

RESULTS = Path(__file__).resolve().parent / "results" / "length"
REFERENCE = 512
"""Tokens of the text that every other is held against."""
Lengths = Mapping[str, Mapping[str, Any]]


def by_length(lengths: Lengths) -> list[tuple[int, Mapping[str, Any]]]:
    """Return what is known of each length, the shortest first."""
    return sorted((int(tokens), facts) for tokens, facts in lengths.items())


def seconds(facts: Mapping[str, Any]) -> float:
    """Return the median seconds of a text."""
    return statistics.median(turn["seconds"] for turn in facts["turns"])


def times(tokens: int, facts: Mapping[str, Any]) -> float:
    """Return how many times the cost a token is that of the reference around it: the median of the turns."""
    return statistics.median(turn["seconds"] / tokens / (turn["reference_s"] / REFERENCE) for turn in facts["turns"])


def page(results: Mapping[str, Lengths]) -> str:
    """Return everything as a page of Markdown."""
    lines = [
        "# Cost against length",
        "",
        "One text alone in the engine, without HTTP; made by `benchmarks/length.py`.",
        "",
    ]
    lines += [
        f"*Times* is the cost a token against that of a text of {REFERENCE} tokens just before and after: median of "
        "the turns, as the milliseconds are.",
        "*Attention* is its share of the additions and multiplications; the rest grows with the tokens alone.",
        "*Memory* is the most that no file backs, above that of the engine just loaded, sampled every 5 ms; "
        "*a mask* is what one of S x S in f32 would be.",
        "",
    ]
    for model, lengths in results.items():
        lines += [f"## {SUBJECTS[model].name}", ""]
        lines += _machines(lengths)
        lines += ["| tokens | ms | ms a token | times | attention | memory, MiB | a mask, MiB | turns |"]
        lines += ["|---:|---:|---:|---:|---:|---:|---:|---:|"]
        lines += [_row(tokens, facts) for tokens, facts in by_length(lengths)]
        lines += [""]
    return "\n".join(lines)


def _machines(lengths: Lengths) -> list[str]:
    """Return a sentence for each machine, with the lengths that were measured there."""
    measured: dict[str, list[str]] = {}
    for tokens, facts in by_length(lengths):
        name = f"{origin.described(facts['machine'])}; {facts['how']}; {facts['date']} at {facts['commit']}"
        measured.setdefault(name, []).append(str(tokens))
    lines = [f"Machine of {', '.join(tokens)} tokens: {name}." for name, tokens in measured.items()]
    return [*lines, ""]


def _row(tokens: int, facts: Mapping[str, Any]) -> str:
    took = seconds(facts)
    cells = [f"{tokens}", f"{1e3 * took:,.0f}", f"{1e3 * took / tokens:.2f}", f"{times(tokens, facts):.2f}"]
    cells += [f"{facts['attention_share']:.0%}", f"{facts['above_idle_mib']:,.0f}", f"{facts['mask_mib']:,.3g}"]
    return f"| {' | '.join([*cells, str(len(facts['turns']))])} |"


def plot(results: Mapping[str, Lengths], file: Path) -> None:
    """Draw cost a token and memory against length, a line a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (cost, memory) = pyplot.subplots(1, 2, figsize=(11, 3.6))
    for model, lengths in results.items():
        known = by_length(lengths)
        tokens = [length for length, _ in known]
        cost.plot(tokens, [times(*one) for one in known], "o-", label=SUBJECTS[model].name)
        memory.plot(tokens, [facts["above_idle_mib"] for _, facts in known], "o-", label=SUBJECTS[model].name)
    masks = {length: facts["mask_mib"] for lengths in results.values() for length, facts in by_length(lengths)}
    memory.plot(sorted(masks), [masks[length] for length in sorted(masks)], "k--", label="a mask of S x S alone")
    for panel, title in (
        (cost, f"cost a token, {REFERENCE} tokens = 1"),
        (memory, "memory above the idle engine, MiB"),
    ):
        panel.set(title=title, xlabel="tokens", ylim=(0, None))
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Write the page and the plot from the results file."""
    results = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8"))
    RESULTS.with_suffix(".md").write_text(page(results), encoding="utf-8")
    plot(results, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
