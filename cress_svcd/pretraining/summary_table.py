"""The table that ``pretrain-hubert`` prints at the end."""

from pathlib import Path


def format_summary(summary: dict, out: Path) -> str:
    """The summary of ``HubertPretraining.run`` as a table for people."""
    units = summary["units"]["result"]
    lines = [f"{'':<20}{'segments':>10}{'hours':>9}  left out"]
    for split, report in units["splits"].items():
        lines.append(_split_line(f"units {split}", report))
    for split, report in summary.get("letters", {}).get("result", {}).get("splits", {}).items():
        lines.append(_split_line(f"ctc {split}", report))
    lines.append(f"{'units':<20}{units['units']:>10} {units['kind']}")
    for stage in ("masked_prediction", "ctc"):
        result = summary.get(stage, {}).get("result")
        if result:
            numbers = "  ".join(f"{name} {value:g}" for name, value in result.items())
            lines.append(f"{stage:<20}{numbers}")
    seconds = {name: entry["seconds"] for name, entry in summary.items()}
    parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    lines.append(f"{'seconds':<20}{sum(seconds.values()):>10.0f} ({parts})")
    lines.append(f"{'encoder':<20}{out / 'hubert.pt'}")
    return "\n".join(lines)


def _split_line(name: str, report: dict) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items())
    return f"{name:<20}{report['segments']:>10,}{report['hours']:>9.2f}  {reasons or '-'}"
