"""The summary of a preparation as a table for people."""

from pathlib import Path

from cress_svcd.data.corpus.preparation import CONFIG_FILE, SUMMARY_FILE


def format_summary(summary: dict, out: Path) -> str:
    """The summary as a table for people."""
    lines = [f"{'split':<12}{'segments':>10}{'hours':>9}{'dropped':>9}"]
    for split, report in summary["splits"].items():
        dropped = sum(report["dropped"].values())
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report["dropped"].items())
        lines.append(
            f"{split:<12}{report['segments']:>10,}{report['hours']:>9.2f}{dropped:>9,}"
            + (f"  ({reasons})" if reasons else "")
        )
        lines += [f"{'':<12}{note}" for note in _notes(report)]
    vocabulary = summary["vocabulary"]
    lines.append(
        f"vocabulary  {vocabulary['size']:,} entries: {vocabulary['model']}, "
        f"{vocabulary['dictionary']}"
    )
    for split, report in summary.get("text_data", {}).items():
        lines.append(f"text data   {split}: {report['sentences']:,} pairs in {report['folder']}")
    lines.append(f"config      {out / CONFIG_FILE}")
    lines.append(f"summary     {out / SUMMARY_FILE}")
    return "\n".join(lines)


def _notes(report: dict) -> list[str]:
    remarks = {
        "longer_than_limit_but_kept": "segments longer than --max-frames kept",
        "clipped_at_end": "segments ran past the end of their talk by a little and were cut",
        "texts_normalised": "texts had tabs, control characters or runs of spaces normalised",
        "duplicates": "segments occur more than once",
    }
    return [f"{report[key]:,} {text}" for key, text in remarks.items() if report[key]]
