"""Scores of several systems as a table and a picture: BLEU by system, or against bits.

Where no reference has four tokens, BLEU means nothing (``bleu_chrf.without_4grams``), and exact
match takes its place.
"""

import os
import statistics
from pathlib import Path
from typing import Any

from cress_svcd.atomic_files import is_number, read_json
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation.plots import figure
from cress_svcd.quantization.report import FULL_BITS

# What the picture's bits are: the column of a row, the axis, and the base if it is logarithmic.
BITS_OF = {
    "model": ("bits", "bits of a parameter, whole model", None),
    "weights": ("weight_bits", "bits of a quantised weight, scales included", 2),
}
# What the picture may draw: the column of a row, and the axis.
DRAWN = {"bleu": "BLEU", "exact_match": "exact match, %"}
_NAMED_POINTS = 6  # of more, the names lie on each other
_MARKERS = "osD^v<>PX*p"


def read_scores(items: list[str]) -> dict[str, list[dict]]:
    """The scores of each system, in the order of the first mention.

    Raises:
        ConfigError: a file is not of 'cress-svcd score' or 'compare'.
    """
    systems: dict[str, list[dict]] = {}
    for item in items:
        name, path = _named(item)
        content = _read(path)
        scores = content.get("systems") or [{**content, "name": name or path.stem}]
        if name and "systems" in content and isinstance(scores, list):
            scores = [
                each for each in scores if isinstance(each, dict) and each.get("name") == name
            ]
        if not isinstance(scores, list) or not scores or not all(map(_is_scored, scores)):
            raise ConfigError(
                f"{item}: expected a file of 'cress-svcd score --json' of one output, or of "
                "'cress-svcd compare --json' (with a name: of a system in it)"
            )
        for each in scores:
            systems.setdefault(each["name"], []).append(each)
    return systems


def read_sizes(items: list[str]) -> dict[str, dict]:
    """Summaries of 'cress-svcd report' by system; raises ConfigError for anything else."""
    sizes = {}
    for item in items:
        name, path = _named(item)
        content = _read(path)
        if not name or not _is_summary(content.get("summary")):
            raise ConfigError(f"--sizes {item}: expected NAME=JSON, of 'cress-svcd report --json'")
        sizes[name] = content["summary"]
    return sizes


def _named(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if equals and name and path and not os.path.exists(item):
        return name, Path(path)
    return "", Path(item)


def _read(path: Path) -> dict:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _is_scored(system: Any) -> bool:
    return (
        isinstance(system, dict)
        and isinstance(system.get("name"), str)
        and all(is_number(system.get(key)) for key in ("bleu", "chrf"))
        and is_number(system.get("bleu_interval", 0))
        and (not _without_4grams(system) or is_number(system.get("exact_match")))
    )


def _without_4grams(system: dict) -> bool:
    """Whether no reference has four tokens, as far as its file tells."""
    return system.get("reference_4grams") == 0


def _is_summary(summary: Any) -> bool:
    return (
        isinstance(summary, dict)
        and all(is_number(summary.get(key)) and summary[key] > 0 for key in ("bits", "full_bits"))
        and (summary.get("bits_per_weight") is None or is_number(summary["bits_per_weight"]))
    )


def table(systems: dict[str, list[dict]], sizes: dict[str, dict]) -> list[dict[str, Any]]:
    """A row a system: name, runs, bleu, bleu_deviation (None of one run), chrf, share (of the first
    system's BLEU, in percent); where 'cress-svcd compare' computed any, bleu_interval, half of the
    95 % confidence interval (None of several runs, whose deviation says more); and with its size
    bits (of a parameter of the whole model), weight_bits (of a quantised weight, scales included)
    and megabytes.

    Where no reference has four tokens, exact_match (percent) and exact_match_deviation come
    before share, and share_of, the column that it is of, in place of bleu_interval: exact_match, or
    chrf where the first system has no exact match.

    Raises:
        ConfigError: a size is of no system.
    """
    strangers = sorted(sizes.keys() - systems.keys())
    if strangers:
        raise ConfigError(f"--sizes {strangers[0]}: no scores of that name; {', '.join(systems)}")
    rows: list[dict[str, Any]] = []
    compared = any("bleu_interval" in each for runs in systems.values() for each in runs)
    short = all(_without_4grams(each) for runs in systems.values() for each in runs)
    share_of = "bleu"
    if short:
        first, *_ = systems.values()
        share_of = "exact_match" if any(each["exact_match"] for each in first) else "chrf"
    for name, runs in systems.items():
        row = {
            "name": name,
            "runs": len(runs),
            "bleu": round(_mean(runs, "bleu"), 2),
            "bleu_deviation": _deviation(runs, "bleu"),
            "chrf": round(_mean(runs, "chrf"), 2),
        }
        if short:
            row["exact_match"] = round(_mean(runs, "exact_match"), 2)
            row["exact_match_deviation"] = _deviation(runs, "exact_match")
        kept = _mean(runs, share_of)
        full = rows[0][share_of] if rows else kept
        row["share"] = round(100 * kept / full, 1) if full else None
        if short:
            row["share_of"] = share_of
        elif compared:
            row["bleu_interval"] = runs[0].get("bleu_interval") if len(runs) == 1 else None
        if sizes:
            row |= _size(sizes.get(name), first=not rows)
        rows.append(row)
    return rows


def _mean(runs: list[dict], key: str) -> float:
    return statistics.mean(each[key] for each in runs)


def _deviation(runs: list[dict], key: str) -> float | None:
    """None of one run."""
    return round(statistics.stdev(each[key] for each in runs), 2) if len(runs) > 1 else None


def _size(summary: dict | None, first: bool) -> dict[str, Any]:
    if summary is None:
        return {"bits": FULL_BITS if first else None, "weight_bits": None, "megabytes": None}
    parameters = summary["full_bits"] / FULL_BITS
    weight_bits = summary.get("bits_per_weight")
    return {
        "bits": round(summary["bits"] / parameters, 3),
        "weight_bits": None if weight_bits is None else round(weight_bits, 3),
        "megabytes": round(summary["bits"] / 8e6, 2),
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table for people, and below it why it has exact match, if it has."""
    sized, compared = "bits" in rows[0], "bleu_interval" in rows[0]
    short = "exact_match" in rows[0]
    width = max(len("system"), *(len(row["name"]) for row in rows)) + 2
    lines = [
        f"{'system':<{width}}{'BLEU':>8}{'±':>7}{'runs':>6}{'chrF2':>8}"
        + (f"{'exact %':>9}{'±':>7}" if short else "")
        + f"{'share':>9}"
        + (f"{'95 % ±':>8}" if compared else "")
        + (f"{'bits':>8}{'MB':>9}" if sized else "")
    ]
    for row in rows:
        line = f"{row['name']:<{width}}{row['bleu']:>8.2f}{_cell(row['bleu_deviation']):>7}"
        line += f"{row['runs']:>6}{row['chrf']:>8.2f}"
        if short:
            line += f"{row['exact_match']:>9.2f}{_cell(row['exact_match_deviation']):>7}"
        line += f"{'-' if row['share'] is None else format(row['share'], '.1f') + ' %':>9}"
        if compared:
            line += f"{_cell(row['bleu_interval']):>8}"
        if sized:
            line += f"{_cell(row['bits']):>8}{_cell(row['megabytes']):>9}"
        lines.append(line)
    if short:
        lines.append(_why(rows[0]["share_of"]))
    return "\n".join(lines)


def _why(share_of: str) -> str:
    """What stands below the table where BLEU means nothing; ``share_of``: of :func:`table`."""
    chrf = "chrF, as the first system has no exact match"
    return "BLEU means nothing here, as no reference has four tokens; share is of " + (
        "exact match" if share_of == "exact_match" else chrf
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def drawn_column(rows: list[dict[str, Any]]) -> str:
    """The one of DRAWN that the picture of these rows draws."""
    return "exact_match" if "exact_match" in rows[0] else "bleu"


def bar_of(row: dict[str, Any], drawn: str) -> float:
    """How far what is drawn may be off: of several runs their deviation, of one the confidence
    interval of its BLEU."""
    return row[f"{drawn}_deviation"] or row.get("bleu_interval") or 0


def explain_bars(rows: list[dict[str, Any]], drawn: str) -> str:
    """What is drawn, and what the lines through the points, or at the ends of the bars, are."""
    kinds = {
        "standard deviation of the runs": any(row[f"{drawn}_deviation"] for row in rows),
        "95 % confidence interval": any(row.get("bleu_interval") for row in rows),
    }
    shown = " or ".join(kind for kind, there in kinds.items() if there)
    return f"{DRAWN[drawn]} ± {shown}" if shown else DRAWN[drawn]


def draw(path: Path, rows: list[dict[str, Any]], title: str, bits_of: str = "model") -> None:
    """BLEU, or exact match, against bits where any is known, else a bar a system.

    Args:
        bits_of: one of BITS_OF.
    """
    against_bits = any(row.get("bits") is not None for row in rows)
    with figure(path) as (panel,):
        if against_bits:
            _draw_points(panel, rows, bits_of)
        else:
            _draw_bars(panel, rows)
        panel.set(title=title)


def _draw_points(panel: Any, rows: list[dict[str, Any]], bits_of: str) -> None:
    """A point a system, with its name next to it; of many, with a legend instead.

    Systems without quantised weights are lines across, where bits are those of such weights.
    """
    column, label, base = BITS_OF[bits_of]
    drawn = drawn_column(rows)
    placed = [row for row in rows if row.get(column) is not None]
    across = [] if column == "bits" else [row for row in rows if row[column] is None]
    many = len(placed) > _NAMED_POINTS
    if many:
        placed.sort(key=lambda row: row[column])  # the legend from left to right
    for number, row in enumerate(placed):
        panel.errorbar(
            row[column],
            row[drawn],
            yerr=None if many else bar_of(row, drawn),  # the intervals of many hide their points
            linestyle="",
            marker=_MARKERS[number % len(_MARKERS)],
            color=f"C{number % 10}",
            capsize=3,
            label=row["name"],
        )
        if not many:
            panel.annotate(
                row["name"],
                (row[column], row[drawn]),
                xytext=(5, 4),
                fontsize=8,
                textcoords="offset points",
            )
    for row in across:
        score, bar = row[drawn], bar_of(row, drawn)
        panel.axhline(score, color="gray", linestyle="--", label=row["name"])
        panel.axhspan(score - bar, score + bar, color="gray", alpha=0.15, linewidth=0)
    if many or across:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    if base:
        panel.set_xscale("log", base=base)
        panel.xaxis.set_major_formatter("{x:g}")
    panel.set(xlabel=label, ylabel=explain_bars(across if many else rows, drawn))
    panel.margins(x=0.15)


def _draw_bars(panel: Any, rows: list[dict[str, Any]]) -> None:
    names, drawn = [row["name"] for row in rows], drawn_column(rows)
    panel.bar(
        names, [row[drawn] for row in rows], yerr=[bar_of(row, drawn) for row in rows], capsize=3
    )
    for number, row in enumerate(rows):
        top = row[drawn] + bar_of(row, drawn)
        panel.annotate(
            f"{row[drawn]:.1f}",
            (number, top),
            xytext=(0, 2),  # clear of the cap of its interval
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
    panel.set(ylabel=explain_bars(rows, drawn))
    panel.tick_params(axis="x", rotation=30)
    panel.margins(y=0.1)  # room for what stands above the bars
